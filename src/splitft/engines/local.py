"""The local engine: all clients in this process, on the server's frozen base; messages pass by reference.

Bytes are counted as a network would carry them, and a virtual clock tells what they would take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from splitft.client import Client
from splitft.ledger import Direction, Ledger
from splitft.messages import AdapterDown, AdapterUp, LocalLoss, Message, OptimizerState

if TYPE_CHECKING:
    from splitft.devices.clock import RoundTimes, VirtualClock


class LocalCohort:
    """Carries messages between the server and clients in the same process; one client at a time."""

    def __init__(
        self,
        clients: Sequence[Client],
        ledger: Ledger,
        clock: VirtualClock | None = None,
        present: Callable[[int], Sequence[str]] | None = None,
    ) -> None:
        self.clients = {client.name: client for client in clients}
        self.ledger = ledger
        self.clock = clock
        self._present = present

    @property
    def names(self) -> list[str]:
        """All clients, in the order in which the server sums."""
        return list(self.clients)

    def present(self, round_: int) -> Sequence[str]:
        """The clients whose device is there in this round."""
        return self._present(round_) if self._present else self.names

    def receive(self, adapters: Mapping[str, AdapterDown]) -> dict[str, OptimizerState]:
        """Give clients their cuts and adapters; return the optimizer state of blocks that leave them."""
        back: dict[str, OptimizerState] = {}
        for name, message in adapters.items():
            self._count(name, "down", message)
            state = self.clients[name].receive(message)
            if state is not None:
                self._count(name, "up", state)
                back[name] = state
        return back

    def train(
        self, members: Sequence[str], round_: int, step: int, micro_step: int, *, together: bool
    ) -> Iterator[dict[str, Message]]:
        """Yield the activations of one micro-batch: of one client after another, or of all `together`."""
        groups = [list(members)] if together else [[name] for name in members]
        for group in groups:
            yield self._sent({n: self.clients[n].forward(round_, step, micro_step) for n in group})

    def evaluate(self, members: Sequence[str], round_: int) -> Iterator[dict[str, Message]]:
        """Yield the activations of the members' held-out rows, batch by batch."""
        for name in members:
            for message in self.clients[name].evaluate(round_):
                yield self._sent({name: message})

    def answer(self, replies: Mapping[str, Message]) -> dict[str, Message]:
        """Give clients the server's replies and return what they send next in the same exchange."""
        answers: dict[str, Message] = {}
        for name, message in replies.items():
            self._count(name, "down", message)
            answer = self.clients[name].answer(message)
            if answer is not None:
                answers[name] = answer
        return self._sent(answers)

    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]:
        """Return the adapters that the members trained in this round."""
        updates = {name: self.clients[name].finish(round_) for name in members}
        for name, update in updates.items():
            self._count(name, "up", update)
        return updates

    def times(self, members: Sequence[str]) -> RoundTimes | None:
        """How long the round would have taken on the clients' devices; None without devices."""
        return self.clock.close_round(members) if self.clock and members else None

    def _sent(self, messages: dict[str, Message]) -> dict[str, Message]:
        for name, message in messages.items():
            self._count(name, "up", message)
        return messages

    def _count(self, name: str, direction: Direction, message: Message) -> None:
        if isinstance(message, LocalLoss):  # a note for the record; nothing that a network would carry
            if self.clock:
                self.clock.on_local_step(name, message.lengths)
            return
        self.ledger.count(direction, message)
        if self.clock:
            self.clock.on_message(name, direction, message)
