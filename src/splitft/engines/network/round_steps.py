"""The clients of one round: which have trained, which it goes on without, and whether enough are left."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from splitft.engines.network.roster import Roster
from splitft.errors import NetworkError


class ShortRoundError(NetworkError):
    """Too few clients of a round are left, and others are there: it is to begin anew, with all these."""


@dataclass
class RoundSteps:
    """The local steps of one round, which may be rolled back and taken again.

    Attributes:
        clients: All that were handed out its adapters.
        attempts: The last one of each client that took all steps.
        trained: Clients that took them, and were not rolled back since.
        left_out: Clients that the round goes on without: none of them comes back to it.
        asked: Clients that were to take steps, since all were last taken back.
        again: Whether the steps are taken once more, from the round's start on.
    """

    round: int = -1
    clients: Sequence[str] = ()
    attempts: dict[str, int] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    again: bool = False

    def take_back(self, members: Collection[str]) -> list[str]:
        """Return the clients to roll back: all that have trained, where some of these take their steps again.

        members: Those that are to take steps now.
        """
        if self.asked.isdisjoint(members):
            self.asked |= set(members)
            return []
        names, self.trained, self.asked, self.again = sorted(self.trained), set(), set(members), True
        return names

    def those_of(self, members: Sequence[str]) -> list[str]:
        """Return the members that take steps: the second time, those that the round did not go on without."""
        return [name for name in members if name in self.attempts or not self.again]

    def short(self, roster: Roster) -> bool:
        """Whether fewer clients are left than the round needs: one of them was expelled."""
        return len(self._left(roster)) < self._needed(roster)

    def enough_without(self, name: str, roster: Roster) -> bool:
        """Whether the round keeps enough clients that have trained, or are there to do so."""
        sure = [c for c in self._left(roster) if c != name and (c in self.trained or roster[c].there)]
        return len(sure) >= self._needed(roster)

    def full(self, roster: Roster) -> bool:
        """Whether as many have trained as count, where more were drawn: the others are late."""
        wanted = roster.per_round
        return wanted is not None and len(self.clients) > wanted and len(self.trained) >= wanted

    def over(self, roster: Roster) -> bool:
        """Whether all have trained with whom the round goes on."""
        return all(name in self.trained for name in self._left(roster))

    def _left(self, roster: Roster) -> list[str]:
        return [name for name in self.clients if name not in self.left_out and not roster[name].off]

    def _needed(self, roster: Roster) -> int:
        stated = roster.config.min_clients or sum(not roster[name].off for name in self.clients)
        if roster.config.samples_connected:
            stated = min(roster.fewest, roster.per_round or roster.fewest)
        return max(1, min(stated, len(self.clients)))
