"""The trunk worker's records: clients, sums over what they sent, and batches at their tails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from splitft.lora.ranks import HeldBlocks
from splitft.server.step import AtTail
from splitft.wire.messages import Metrics, TailGradients


@dataclass(frozen=True)
class Served:
    """A client between two hand-outs. micro_batches: parts of each of its batches."""

    held: HeldBlocks
    micro_batches: int


@dataclass
class _Sums:
    rows: int = 0
    loss: float = 0.0
    loss_tokens: int = 0


class Tally:
    """Sums over what clients sent: token rows, their weight in the average; losses; held-out rows."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = defaultdict(_Sums)
        self._metrics: dict[str, Metrics] = {}

    def add_rows(self, client: str, lengths: Iterable[int]) -> None:
        """Count the token rows of a micro-batch."""
        self._sums[client].rows += sum(lengths)

    def add_loss(self, client: str, loss: float, loss_tokens: int, micro_step: int) -> None:
        """Count a micro-batch's part of a step's loss; loss_tokens are those of the whole step."""
        sums = self._sums[client]
        sums.loss += loss * loss_tokens
        sums.loss_tokens += loss_tokens if micro_step == 0 else 0

    def add_metrics(self, client: str, metrics: Metrics) -> None:
        """Add sums over held-out rows."""
        old = self._metrics.get(client, Metrics(metrics.round, 0.0, 0.0, 0, 0.0, 0))
        self._metrics[client] = Metrics(
            metrics.round,
            old.nll + metrics.nll,
            old.correct + metrics.correct,
            old.tokens + metrics.tokens,
            old.paper_correct + metrics.paper_correct,
            old.paper_tokens + metrics.paper_tokens,
        )

    def take_rows(self) -> dict[str, int]:
        """Return {client: token rows} since the last call."""
        rows = {client: sums.rows for client, sums in self._sums.items() if sums.rows}
        for sums in self._sums.values():
            sums.rows = 0
        return rows

    def take_losses(self) -> dict[str, tuple[float, int]]:
        """Return {client: (sum of token losses, tokens)} since the last call."""
        losses = {c: (sums.loss, sums.loss_tokens) for c, sums in self._sums.items() if sums.loss_tokens}
        for sums in self._sums.values():
            sums.loss, sums.loss_tokens = 0.0, 0
        return losses

    def take_metrics(self) -> dict[str, Metrics]:
        """Return {client: sums over its held-out rows} since the last call."""
        metrics, self._metrics = self._metrics, {}
        return metrics

    def forget(self, client: str) -> None:
        """Drop all sums of a client."""
        self._sums.pop(client, None)
        self.forget_metrics(client)

    def forget_metrics(self, client: str) -> None:
        """Drop the sums over a client's held-out rows."""
        self._metrics.pop(client, None)


class Tails:
    """Micro-batches at the clients' tails, until their gradients come back.

    Clients that share a trunk go back together, in the order in which they came, whenever their gradients
    come: the order of sums is then not that of arrival.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], dict[str, AtTail]] = defaultdict(dict)  # by trunk and micro-step
        self._came: dict[tuple[str, int], dict[str, TailGradients]] = defaultdict(dict)

    def wait(self, key: str, at_tail: AtTail) -> None:
        """Keep a micro-batch of the trunk `key` until its gradient comes."""
        place = at_tail.part.place
        self._waiting[key, place.micro_step][place.client] = at_tail

    def take(self, key: str, client: str, message: TailGradients) -> list[tuple[AtTail, TailGradients]]:
        """Take in a client's gradient; return the micro-batches that can go back now, with theirs.

        Raises ValueError where none of the client's waits for a gradient.
        """
        place = key, message.micro_step
        waiting, came = self._waiting[place], self._came[place]
        if client not in waiting:
            raise ValueError(f"{client} sent a tail gradient, but nothing waits for one")
        came[client] = message
        if len(came) < len(waiting):
            return []
        del self._waiting[place], self._came[place]
        return [(at_tail, came[name]) for name, at_tail in waiting.items()]

    def forget(self, clients: Iterable[str]) -> None:
        """Drop all micro-batches of these clients."""
        for client in clients:
            for waiting in self._waiting.values():
                waiting.pop(client, None)
            for came in self._came.values():
                came.pop(client, None)
