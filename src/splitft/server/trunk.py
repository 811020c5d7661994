"""A trunk adapter under training: one client's own, or the one that all clients share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from splitft.job.settings import TrainingSettings
from splitft.lora.basis import Basis
from splitft.lora.blocks import Adapter, BlockAdapter, rank_of
from splitft.lora.moments import Moments, rebase, resize_moments
from splitft.lora.optimizer import TrainedAdapter, total_norm


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

    def __init__(self, settings: TrainingSettings, learning_rate: Callable[[int], float]) -> None:
        self.trained = TrainedAdapter(settings, settings.freeze_a)
        self._settings = settings
        self._learning_rate = learning_rate
        self._waiting: _Waiting | None = None

    def moments(self, blocks: Iterable[int], bases: Mapping[int, Sequence[Basis]]) -> dict[int, Moments]:
        """Return the optimizer state of blocks about to leave, in the basis of the global adapter.

        bases: changes of basis since the trunk had a block last.
        """
        leaving: dict[int, Moments] = {}
        for block in blocks:
            moments = self.trained.moments(block) if block in self.trained.blocks else None
            if moments is not None:
                for basis in bases.get(block, ()):
                    moments = rebase(moments, basis)
                leaving[block] = moments
        return leaving

    def load(self, adapter: Mapping[int, BlockAdapter], bases: Mapping[int, Sequence[Basis]]) -> None:
        """Hold exactly these blocks, with the optimizer state that it has of them."""
        self.trained.load(adapter, bases)

    def adopt(self, moments: Mapping[int, Moments]) -> None:
        """Take over the optimizer state of blocks that came back, where the trunk has none of its own."""
        blocks: Adapter = {b: {**block} for b, block in self.trained.blocks.items()}
        new = {b: m for b, m in moments.items() if b in blocks and self.trained.moments(b) is None}
        self.trained.load(blocks, moments={b: resize_moments(m, rank_of(blocks[b])) for b, m in new.items()})

    def close_step(self, step: int, weights: Mapping[str, float]) -> Tensor | None:
        """Return the norms of a step's complete gradients, (tensors,), and wait for the clients'.

        The step is taken at once without clipping, and, where clients run ahead of their gradients, clipped
        by the norm of the trunk alone: theirs would come late.

        Args:
            weights: Share of each client in the gradient.
        """
        if not self._settings.max_grad_norm:
            self.trained.step(self._learning_rate(step), None)
            return None
        norms = self.trained.gradient_norms()
        if self._settings.max_staleness:
            self.trained.step(self._learning_rate(step), total_norm([norms]))
        else:
            self._waiting = _Waiting(step, norms, weights)
        return norms

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
