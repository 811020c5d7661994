"""The trunk adapter of one client, or of all that share it, under training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from splitft.common.state import State
from splitft.job.settings import TrainingSettings
from splitft.lora.basis import unstack_bases
from splitft.lora.blocks import Adapter, Layout, rank_of, resize, tensors_of
from splitft.lora.moments import Moments, pack_blocks, rebase, resize_moments, unpack_blocks
from splitft.lora.optimizer import TrainedAdapter, total_norm
from splitft.server.seam import TrunkLoad, TrunkMoments, TrunkUpdate
from splitft.server.served import Tails


class Trunk:
    """Trunk adapters with their optimizer. Its step i is taken when the clients' norms of step i arrive.

    Clipping needs the norm over front, trunk and tail; the client's share comes with its next message, so
    that clipping costs no round trip. With one client this is the clipping of the unsplit model, bit by bit.

    Args:
        layout: Places of adapters in the model.
        device: Where the trunk is trained.
        learning_rate: Of each optimizer step.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        layout: Layout,
        device: torch.device,
        learning_rate: Callable[[int], float],
    ) -> None:
        self.trained = TrainedAdapter(settings, settings.freeze_a)
        self.tails = Tails()
        self._settings = settings
        self._layout = layout
        self._device = device
        self._learning_rate = learning_rate
        self._waiting: tuple[int, Tensor, Mapping[str, float]] | None = None  # step, norms, weights
        self._mark: State = {}

    def load(self, adapter: Adapter, load: TrunkLoad) -> TrunkMoments:
        """Start from the global adapter; return the optimizer state of blocks that leave the trunk."""
        bases = unstack_bases(load.rebased, load.bases, self._layout)
        leaving: dict[int, Moments] = {}
        for block in load.leaving:
            moments = self.trained.moments(block) if block in self.trained.blocks else None
            if moments is not None:
                for basis in bases.get(block, ()):
                    moments = rebase(moments, basis)
                leaving[block] = moments
        ranks = zip(load.blocks, load.ranks, strict=True)
        self.trained.load({block: resize(adapter[block], rank) for block, rank in ranks}, bases)
        return TrunkMoments(*pack_blocks(leaving))

    def adopt(self, moments: TrunkMoments) -> None:
        """Take the optimizer state of blocks that came back, where the trunk has none of its own."""
        freeze_a = self._settings.freeze_a
        came = unpack_blocks(moments.blocks, moments.steps, moments.values, self._layout, freeze_a)
        blocks: Adapter = {b: {**block} for b, block in self.trained.blocks.items()}
        new = {b: m for b, m in came.items() if b in blocks and self.trained.moments(b) is None}
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
            self._waiting = step, norms, weights
        return norms

    def take_step(self, theirs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take the step that waits, if one does, given each client's norms before and after the trunk."""
        if self._waiting is None:
            return
        (step, norms, weights), self._waiting = self._waiting, None
        if missing := [client for client in weights if client not in theirs]:
            raise ValueError(f"no gradient norms came from {', '.join(missing)}")
        fronts, tails = ([theirs[c][part] * w**0.5 for c, w in weights.items()] for part in (0, 1))
        self.trained.step(self._learning_rate(step), total_norm([*fronts, norms, *tails]))

    def update(self, rows: Mapping[str, int]) -> TrunkUpdate:
        """Return what the trunk has trained. rows: token rows seen of each client."""
        values = self.trained.values()
        return TrunkUpdate(tuple(rows), tuple(rows.values()), tuple(values), tensors_of(values, self._layout))

    def mark(self) -> None:
        """Remember where its clients' training starts, for `rewind`."""
        self._mark = self.trained.state()

    def rewind(self) -> None:
        """Roll back to the last mark."""
        self.load_state(self._mark)

    def load_state(self, state: State) -> None:
        """Restore a state of `trained`; nothing is under way then."""
        self._waiting, self.tails = None, Tails()
        self.trained.load_state(state, self._device)
