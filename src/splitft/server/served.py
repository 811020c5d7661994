"""The trunk worker's records of clients: their models' division, sums, and micro-batches at their tails."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import astuple, dataclass
from typing import TypeVar

from splitft.lora.ranks import HeldBlocks
from splitft.server.step import AtTail
from splitft.wire.messages import Metrics, TailGradients

T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A client between two hand-outs. micro_batches: parts of each of its batches."""

    held: HeldBlocks
    micro_batches: int


class Sums:
    """Sums over what clients sent.

    Attributes:
        rows: Token rows in training.
        losses: (Sum of token losses, tokens) in training.
        metrics: Of held-out rows.
    """

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.losses: dict[str, tuple[float, int]] = {}
        self.metrics: dict[str, Metrics] = {}

    def add_loss(self, client: str, loss: float, loss_tokens: int, micro_step: int) -> None:
        """Count a micro-batch's part of a step's loss; loss_tokens are those of the whole step."""
        total, tokens = self.losses.get(client, (0.0, 0))
        self.losses[client] = total + loss * loss_tokens, tokens + (loss_tokens if micro_step == 0 else 0)

    def add_metrics(self, client: str, metrics: Metrics) -> None:
        """Add the sums over a batch of held-out rows."""
        if client in self.metrics:
            each = zip(astuple(self.metrics[client])[1:], astuple(metrics)[1:], strict=True)
            metrics = Metrics(metrics.round, *(one + other for one, other in each))
        self.metrics[client] = metrics

    def forget(self, client: str) -> None:
        """Drop all sums of a client."""
        for kept in (self.rows, self.losses, self.metrics):
            kept.pop(client, None)


def taken(kept: dict[str, T]) -> dict[str, T]:
    """Return what was kept, which is empty from then on."""
    found = dict(kept)
    kept.clear()
    return found


class Tails:
    """Micro-batches of one trunk at its clients' tails, until their gradients come back.

    Clients that share a trunk go back together, in the order in which they came, whenever their gradients
    come: the order of sums is then not that of arrival.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, dict[str, AtTail]] = defaultdict(dict)  # by micro-step
        self._came: dict[int, dict[str, TailGradients]] = defaultdict(dict)

    def wait(self, at_tail: AtTail) -> None:
        """Keep a micro-batch until its gradient comes."""
        place = at_tail.part.place
        self._waiting[place.micro_step][place.client] = at_tail

    def take(self, client: str, message: TailGradients) -> list[tuple[AtTail, TailGradients]]:
        """Take in a client's gradient; return the micro-batches that can go back now, with theirs.

        Raises ValueError where none of the client's waits for a gradient.
        """
        place = message.micro_step
        if client not in self._waiting[place]:
            raise ValueError(f"{client} sent a tail gradient, but nothing waits for one")
        self._came[place][client] = message
        if len(self._came[place]) < len(self._waiting[place]):
            return []
        waiting, came = self._waiting.pop(place), self._came.pop(place)
        return [(at_tail, came[name]) for name, at_tail in waiting.items()]
