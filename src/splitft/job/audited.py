"""Recorded figures of this project's own audits: what attacks read of a job's messages.

`benchmarks/audited.py` runs the audits and writes audited.json; a test holds the documentation to it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from splitft.common.text import percent

TEXT, LABELS = "text", "labels"
RECORD = "audited.json"


@dataclass(frozen=True)
class Figure:
    """What one attack read of the rows of one client.

    Attributes:
        value, floor: Shares of tokens: read, and guessed without any message.
    """

    of: str
    attack: str
    cut: int
    value: float
    floor: float
    rows: int
    tokens: int
    model: str
    codec: str

    @property
    def conditions(self) -> str:
        """The conditions, in short: model, cut, and what guessing reads."""
        return f"{self.model.removeprefix('builtin:')}, cut {self.cut}; guessing {percent(self.floor)}"


@cache
def record() -> dict[str, Any]:
    """Return the recorded audits as they lie in the package."""
    text = (files("splitft.job") / RECORD).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@cache
def figures() -> tuple[Figure, ...]:
    """Return all recorded figures."""
    found = []
    for audit in record()["audits"]:
        for line in (line for line in audit["lines"] if line["reading"]):
            own = line["reading"]["tokens"]
            found.append(
                Figure(
                    line["of"],
                    line["attack"],
                    line["cut"],
                    own["value"],
                    own["floor"],
                    line["reading"]["rows"],
                    own["count"],
                    audit["model"],
                    audit["codec"] or "none",
                )
            )
    return tuple(found)


def figure_at(of: str, cut: int) -> Figure:
    """Return the figure of the best attack at a cut, without a codec.

    of: TEXT or LABELS. cut: where it was not audited, the deepest audited one below it stands for it, or the
        lowest one.
    """
    plain = [one for one in figures() if one.of == of and one.codec == "none"]
    cuts = sorted({one.cut for one in plain})
    nearest = max((one for one in cuts if one <= cut), default=cuts[0])
    return max((one for one in plain if one.cut == nearest), key=lambda one: one.value)
