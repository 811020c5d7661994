"""The local engine: all clients in this process, on the server's frozen base; messages pass by reference.

Bytes are counted as a network would carry them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from splitft.client import Client
from splitft.ledger import Ledger
from splitft.messages import AdapterDown, AdapterUp, Message


class LocalCohort:
    """Carries messages between the server and clients in the same process; one client at a time."""

    def __init__(self, clients: Sequence[Client], ledger: Ledger) -> None:
        self.clients = {client.name: client for client in clients}
        self.ledger = ledger

    @property
    def names(self) -> list[str]:
        """All clients, in the order in which the server sums."""
        return list(self.clients)

    def receive(self, adapters: Mapping[str, AdapterDown]) -> None:
        """Give clients their cuts and adapters."""
        for name, message in adapters.items():
            self.ledger.count("down", message)
            self.clients[name].receive(message)

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
            self.ledger.count("down", message)
            answer = self.clients[name].answer(message)
            if answer is not None:
                answers[name] = answer
        return self._sent(answers)

    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]:
        """Return the adapters that the members trained in this round."""
        updates = {name: self.clients[name].finish(round_) for name in members}
        for update in updates.values():
            self.ledger.count("up", update)
        return updates

    def _sent(self, messages: dict[str, Message]) -> dict[str, Message]:
        for message in messages.values():
            self.ledger.count("up", message)
        return messages
