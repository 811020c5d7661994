"""Membership as others see it: the standing of every client of a run, kept in `members.json`.

    invited ── ready ── training ── away ── training (it is back)
       │                    │         └──── dropped: a round went on without it; training when it is back
       └── not ready        └────────────── expelled: it broke the protocol, or diverged

A client that cannot take part yet, because its data cannot be read, say, is not ready: it may come again at
once, and is waited for. A client that the operator drops is suspended until it is admitted (`orders.py`).
Expulsion outlives a restart of the server, until one with `--admit NAME`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from splitft.common.files import write_atomically
from splitft.common.text import error_line, first_few
from splitft.errors import JobError, OutputError

MEMBERS = "members.json"
BETWEEN_SECONDS = 1.0  # two writings where clients come and go
Standing = Literal["invited", "not ready", "ready", "training", "away", "dropped", "suspended", "expelled"]


class Standee(Protocol):
    """What is known of a client."""

    @property
    def expelled(self) -> str: ...
    @property
    def out(self) -> bool: ...
    @property
    def diverged(self) -> bool: ...
    @property
    def problem(self) -> str: ...
    @property
    def session(self) -> str: ...
    @property
    def there(self) -> bool: ...
    @property
    def connected(self) -> bool: ...
    @property
    def muted(self) -> bool: ...
    @property
    def took_part(self) -> bool: ...


def standing(member: Standee) -> Standing:
    """Return where a client stands."""
    if member.expelled:
        return "expelled"
    if member.out:
        return "suspended"
    if member.problem:
        return "not ready"
    if not member.session and not member.took_part:
        return "invited"
    if member.muted and member.took_part:
        return "dropped"
    if not member.connected:
        return "away"
    return "training" if member.there else "ready"


def missing(members: Mapping[str, Standee], *, open_: bool = False) -> dict[str, str]:
    """Return the invited clients that the last round went on without, each with the reason.

    open_: clients come and go, and none is missing that is away.
    """
    told = {}
    for name, member in members.items():
        if member.expelled:
            told[name] = f"expelled: {member.expelled}"
        elif member.out:
            told[name] = "suspended: the operator dropped it"
        elif open_:
            continue
        elif not member.took_part:
            told[name] = f"not ready: {member.problem}" if member.problem else "it never came"
        elif member.muted:
            told[name] = f"dropped: {member.problem}" if member.problem else "dropped: it was away or late"
    return told


def write_members(folder: Path, members: Mapping[str, Standee], *, came: bool = False) -> None:
    """Write the standing of all clients. came: of those alone that have come. Raises OutputError."""
    told = {
        name: {
            "standing": standing(member),
            "reason": member.expelled or member.problem,
            "diverged": member.diverged,
        }
        for name, member in members.items()
        if not came or standing(member) != "invited"
    }
    write_atomically(folder / MEMBERS, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


@dataclass(eq=False)
class ThrottledMembers:
    """Writes the standings of a run whose clients come and go: of those that have come, now and then.

    An expulsion is written at once. now: seconds of a clock that never goes back.
    """

    folder: Path
    now: Callable[[], float] = time.monotonic
    _written: float = field(default=-math.inf, init=False)
    _expelled: int = field(default=0, init=False)

    def __call__(self, members: Mapping[str, Standee]) -> None:
        """Write, if it is time to. Raises OutputError."""
        expelled = sum(bool(member.expelled) for member in members.values())
        if expelled != self._expelled or self.now() - self._written >= BETWEEN_SECONDS:
            self.flush(members)
            self._expelled = expelled

    def flush(self, members: Mapping[str, Standee]) -> None:
        """Write. Raises OutputError."""
        write_members(self.folder, members, came=True)
        self._written = self.now()


def expelled_before(folder: Path, names: Collection[str], admit: Collection[str]) -> dict[str, str]:
    """Return the clients that the run in a folder has expelled, each with the reason, but for those to admit.

    Those whose figures were not finite are not among them: it may have been the adapter that they were given.
    Raises JobError where one to admit is no client of the job, OutputError where the file is damaged.
    """
    for name in admit:
        if name not in names:
            there = first_few(list(names), 5)
            raise JobError(f"--admit {name}: no client of this job is called so; there are {there}")
    path = folder / MEMBERS
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: str(member["reason"])
            for name, member in found.items()
            if member["standing"] == "expelled"
            and not member["diverged"]
            and name in names
            and name not in admit
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{path} cannot be read ({error_line(error)}): put a copy of it back, or remove it; without it "
            "expelled clients may come again"
        ) from None
