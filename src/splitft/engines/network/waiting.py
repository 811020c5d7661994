"""The line that says from time to time whom a server waits for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
