"""The phase in which clients save their states: from then on the server counts on these."""

from __future__ import annotations

from dataclasses import dataclass

from splitft.engines.network.control import Said, Save, Saved
from splitft.engines.network.members import Members
from splitft.engines.network.phase import Phase
from splitft.engines.network.roster import Member, leave_unsaved


@dataclass(eq=False)
class Saving(Phase):
    """Clients save their states; from then on the server counts on these.

    A client on its way back is waited for: without its state its optimizer would start from zero.
    After the last round it is waited for no longer than `rejoin_seconds`: the results do not need it.
    """

    members: Members
    done: int  # rounds
    last: bool = False

    def run(self) -> None:
        """Have all clients save."""
        roster = self.members.roster
        with self.members.during(self):
            for name in roster.there():
                self.returned(name)
            names = list(roster)
            self.members.wait(
                lambda name: not self.awaits(name) or (self.last and roster.long_away(name)),
                names,
                roster.config.round_seconds,
            )
        for member in roster.values():
            if member.done != self.done:
                member.save(member.done, exact=False)

    def awaits(self, name: str) -> bool:
        return self.members.roster[name].done != self.done

    def take(self, name: str, message: Said) -> None:
        if not isinstance(message, Saved):  # of a hand-out or an evaluation that went on without it
            return
        if message.done > self.done:
            raise ValueError(f"{message} came where Saved({self.done}) is next")
        if message.done == self.done:  # an earlier one is of a request that was given up
            self.members.roster[name].save(self.done, exact=True)

    def returned(self, name: str) -> None:
        self.members.send(name, Save(self.done))


@dataclass(eq=False)
class SavingConnected(Saving):
    """The same where clients come and go: those alone that were handed out something, and are there.

    Nobody else is waited for. A client that leaves before it has saved keeps the state that it has on its
    disk: as it sent its adapters where these count, else the one before the round.

    With one rank of all adapters only: a state of any round then goes with the adapter of any other.
    """

    def run(self) -> None:
        """Have clients save."""
        roster = self.members.roster
        changed = [member for member in roster.values() if member.unsaved]
        with self.members.during(self):
            asked = [member.name for member in changed if member.present and self.asks(member)]
            for name in asked:
                self.members.send(name, Save(self.done))
            self.members.wait(
                lambda name: not self.awaits(name) or not roster[name].present,
                asked,
                roster.config.round_seconds,
            )
        for member in changed:
            if not member.unsaved:
                continue
            # Its copy of the adapter is of an earlier moment: it gets all blocks with the next hand-out.
            self.members.coordinator.blocks.forget(member.name)
            lora = self.members.coordinator.settings
            if lora.lora_r_cut in (None, lora.lora_r):
                leave_unsaved(member)
            else:
                member.save(member.done, exact=False)

    @staticmethod
    def asks(member: Member) -> bool:
        """Whether a client is to save: one that is late may not read that for a long time."""
        return not member.muted and not member.off

    def awaits(self, name: str) -> bool:
        member = self.members.roster[name]
        return member.unsaved and self.asks(member)

    def returned(self, name: str) -> None:
        if self.awaits(name):
            self.members.send(name, Save(self.done))
