"""Waiting for clients, and the line that says from time to time whom a server waits for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from splitft.common.notices import Notice
from splitft.engines.network.roster import Roster

EVERY = 30.0  # seconds


@dataclass
class WaitingLine:
    """Says who is waited for, while someone is who is not there. notice: prints a line."""

    roster: Roster
    notice: Callable[[str], None]
    _said: float = field(init=False)

    def __post_init__(self) -> None:
        self._said = self.roster.now()

    def tell(self, names: Sequence[str]) -> None:
        """Name those of these clients that are not there, if it is time to."""
        now = self.roster.now()
        if now - self._said > EVERY and (away := self.roster.away(names)):
            self.notice(Notice(f"waiting for {away}", "waiting", "warning"))
            self._said = now

    def tell_count(self) -> None:
        """Say how many clients are there, and how many a round needs, if it is time to."""
        now, roster = self.roster.now(), self.roster
        if now - self._said > EVERY:
            there = f"{len(roster.there())} of {len(roster)} registered clients are there"
            self.notice(Notice(f"{there}, a round needs {roster.fewest}", "waiting", "warning"))
            self._said = now


def wait_for_enough(
    roster: Roster, notice: Callable[[str], None], pump: Callable[[float], None]
) -> list[str]:
    """Wait until as many clients are connected as a round needs, whoever they are; return all of them.

    notice: prints a line. pump: takes in what comes within so many seconds.
    """
    waiting = WaitingLine(roster, notice)
    pump(0.0)  # those that have come meanwhile
    while len(there := roster.connected()) < roster.fewest:
        pump(0.5)
        waiting.tell_count()
    return there


def all_come(roster: Roster, names: Collection[str], pump: Callable[[float], None]) -> bool:
    """Wait `rejoin_seconds` from now for these clients; return whether all of them are connected.

    pump: takes in what comes within so many seconds.
    """
    end = roster.now() + roster.config.rejoin_seconds
    while lacking := {*names} - {*roster.connected()}:
        if roster.now() >= end or any(roster[name].off for name in lacking):
            return False
        pump(0.5)
    return True
