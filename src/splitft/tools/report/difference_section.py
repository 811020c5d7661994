"""Differences to one variant, paired by seed, with their intervals; what is the same is said, not drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from splitft.common.text import short
from splitft.tools.report.charts.dots import interval_chart
from splitft.tools.report.compared import MEASURES, read_paired
from splitft.tools.report.sections import Panel, Section, make_section
from splitft.tools.report.verdict import listed

TITLE = "Difference to"


def difference_section(data: Mapping[str, Any]) -> Section | None:
    """Return a chart for each measure in which variants differ from the reference; None where none does."""
    rows: Sequence[Mapping[str, Any]] = data["variants"]
    if len(rows) < 2 or any(row["random_weights"] for row in rows):
        return None
    panels, same, reference = [], [], short(str(data["reference"]), 24)
    for name, (heading, unit) in MEASURES.items():
        found = [
            (row["label"], number, read_paired(row["against"][name]))
            for number, row in enumerate(rows)
            if name in row["against"]
        ]
        differ = [(label, number, own) for label, number, own in found if any(own.values)]
        alike = [label for label, _, own in found if not any(own.values)]
        if alike:
            same.append(
                f"{heading}: {listed(alike)} {'is' if len(alike) == 1 else 'are'} the same to the last digit"
            )
        chart = interval_chart(differ, f"difference to {reference}", unit, "variant (mean, 95 % interval)")
        panels.append(Panel(chart, _capital(heading)))
    return make_section(f"{TITLE} {data['reference']}, paired by seed", panels, _note(data, same))


def _note(data: Mapping[str, Any], same: Sequence[str]) -> str:
    most = max(len(row["seeds"]) for row in data["variants"])
    text = (
        f"Every seed of a variant against the same seed of {data['reference']}, which is the line at 0. "
        "Large dot: the mean; line: its 95 % interval (Student's t); small dots: the seeds. Where the "
        "interval holds 0, nothing is decided, and the mean is a ring."
    )
    if most < 2:
        text = (
            f"Each variant against {data['reference']}, which is the line at 0. One seed each: there is no "
            "interval, and nothing is decided; give compare more seeds."
        )
    return text + "".join(f" {_capital(one)}." for one in same)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
