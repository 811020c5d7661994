"""`method: local_only`: every client trains alone, and is evaluated with what it trained itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from splitft.engines.local import LocalCohort
from splitft.lora.blocks import Adapter
from splitft.server.server import Server
from splitft.wire.messages import AdapterDown, AdapterUp, Message, OptimizerState


class LocalOnlyCohort(LocalCohort):
    """Clients that start from the same adapter and never send one."""

    def receive(self, adapters: Mapping[str, AdapterDown]) -> dict[str, OptimizerState]:
        """Start the clients; nothing of it crosses a network."""
        for name, message in adapters.items():
            self.clients[name].receive(message)
        return {}

    def evaluate(self, members: Sequence[str], round_: int) -> Iterator[dict[str, Message]]:
        """Evaluate each client with its own adapter; its sums stay with it."""
        for name in members:
            client = self.clients[name]
            client.adapter = client.trained.values()
            for message in client.evaluate(round_):
                yield {name: message}

    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]:
        """Nothing is gathered."""
        return {}

    def adapters(self) -> dict[str, Adapter]:
        """Return {folder in the run's: what a client has trained}."""
        return {f"adapters/{name}": client.trained.values() for name, client in self.clients.items()}


class SilentServer(Server):
    """Keeps the books of a run without exchange: hands out the first adapter, and averages nothing."""

    def hand_out(
        self, round_: int, cuts: Mapping[str, int], *, evaluate: bool = False
    ) -> dict[str, AdapterDown]:
        """Return the adapter that all start from, once."""
        return super().hand_out(round_, cuts, evaluate=evaluate) if round_ == 0 else {}

    def aggregate(self) -> None:
        """Leave every client's adapter alone."""
