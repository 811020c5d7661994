"""A trunk adapter under training: one client's own, or the one that all clients share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from splitft.adapters import Adapter, effective_ranks, resize
from splitft.aggregator import Aggregator
from splitft.job import Job
from splitft.optim import TrainedAdapter, learning_rates, total_norm


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

    def __init__(self, job: Job, num_blocks: int) -> None:
        self.job = job
        self.num_blocks = num_blocks
        self.trained = TrainedAdapter(job)
        self._versions: dict[int, int] = {}  # block -> version of the global adapter it started from
        self._waiting: _Waiting | None = None
        self._learning_rate = learning_rates(job)

    def load(self, aggregator: Aggregator, cuts: Sequence[int]) -> None:
        """Start from the global adapter, at the highest effective rank that one of these cuts asks for."""
        ranks: dict[int, int] = {}
        for cut in cuts:
            r_cut = self.job.lora_r_cut or self.job.lora_r
            for block, rank in effective_ranks(self.num_blocks, cut, self.job.lora_r, r_cut).items():
                if cut <= block < self.num_blocks - self.job.tail_blocks and block in aggregator.adapter:
                    ranks[block] = max(rank, ranks.get(block, 0))
        old = self._versions
        forget = [b for b in ranks if b in old and aggregator.rebased_since(b, old[b])]
        self.trained.load(
            {b: resize(aggregator.adapter[b], rank) for b, rank in ranks.items()}, forget=forget
        )
        self._versions = {block: aggregator.version[block] for block in ranks}

    def values(self) -> Adapter:
        """Return the adapters as they stand."""
        return self.trained.values()

    def close_step(self, step: int, weights: Mapping[str, float]) -> Tensor | None:
        """All gradients of a step are in: return their norms, (tensors,), and wait for the clients'.

        weights: share of each client in the gradient. Without clipping the step is taken at once.
        """
        if not self.job.max_grad_norm:
            self.trained.step(self._learning_rate(step), None)
            return None
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
