"""A trunk adapter under training: one client's own, or the one that all clients share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from splitft.job import Job
from splitft.lora.blocks import Adapter, rank_of, resize
from splitft.lora.moments import Moments, rebase, resize_moments
from splitft.lora.optimizer import TrainedAdapter, learning_rates, total_norm
from splitft.server.global_adapter import GlobalAdapter


@dataclass
class _Waiting:
    """An optimizer step that waits for the gradient norms of the other parts of the model."""

    step: int
    norms: Tensor
    weights: Mapping[str, float]


class Trunk:
    """Trunk adapters with their optimizer. Its step i is taken when the clients' norms of step i arrive.

    Clipping needs the norm over front, trunk and tail; the client's share comes with its next message, so
    that clipping costs no round trip. With one client this is the clipping of the unsplit model, bit by bit.
    """

    def __init__(self, job: Job, name: str) -> None:
        self.name = f"trunk/{name}"  # among the aggregator's holders
        self._job = job
        self.trained = TrainedAdapter(job, job.freeze_a)
        self._waiting: _Waiting | None = None
        self._learning_rate = learning_rates(job)

    def load(self, aggregator: GlobalAdapter, ranks: Mapping[int, int]) -> None:
        """Hold these blocks of the global adapter, {block: effective rank}, with their optimizer state."""
        bases = aggregator.take(self.name, list(ranks))
        self.trained.load({b: resize(aggregator.adapter[b], rank) for b, rank in ranks.items()}, bases)

    def moments(self, aggregator: GlobalAdapter, blocks: Iterable[int]) -> dict[int, Moments]:
        """Return the optimizer state of blocks about to leave, in the basis of the global adapter."""
        leaving: dict[int, Moments] = {}
        for block in blocks:
            moments = self.trained.moments(block) if block in self.trained.blocks else None
            if moments is not None:
                for basis in aggregator.changes(self.name, block):
                    moments = rebase(moments, basis)
                leaving[block] = moments
        return leaving

    def adopt(self, moments: Mapping[int, Moments]) -> None:
        """Take over the optimizer state of blocks that came back, where the trunk has none of its own."""
        blocks: Adapter = {b: {**block} for b, block in self.trained.blocks.items()}
        new = {b: m for b, m in moments.items() if b in blocks and self.trained.moments(b) is None}
        self.trained.load(blocks, moments={b: resize_moments(m, rank_of(blocks[b])) for b, m in new.items()})

    def values(self) -> Adapter:
        """Return the adapters as they stand."""
        return self.trained.values()

    def close_step(self, step: int, weights: Mapping[str, float]) -> Tensor | None:
        """All gradients of a step are in: return their norms, (tensors,), and wait for the clients'.

        weights: share of each client in the gradient. The step is taken at once without clipping, and, where
        clients run ahead of their gradients, clipped by the norm of the trunk alone: theirs would come late.
        """
        job = self._job
        if not job.max_grad_norm:
            self.trained.step(self._learning_rate(step), None)
            return None
        if job.max_staleness:
            norms = self.trained.gradient_norms()
            self.trained.step(self._learning_rate(step), total_norm([norms]))
            return norms
        self._waiting = _Waiting(step, self.trained.gradient_norms(), weights)
        return self._waiting.norms

    def take_step(self, front: Mapping[str, Tensor], tail: Mapping[str, Tensor]) -> None:
        """Take the step that waits, if one does, given the clients' norms before and after the trunk."""
        if self._waiting is None:
            return
        now, self._waiting = self._waiting, None
        missing = [client for client in now.weights if client not in front]
        if missing:
            raise ValueError(f"no gradient norms came from {', '.join(missing)}")
        fronts = [front[c] * w**0.5 for c, w in now.weights.items()]
        tails = [tail[c] * w**0.5 for c, w in now.weights.items()]
        self.trained.step(self._learning_rate(now.step), total_norm([*fronts, now.norms, *tails]))
