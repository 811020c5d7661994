"""Adapters of the blocks that a client holds: as the server handed them out, and as trained since."""

from __future__ import annotations

import torch
from torch import Tensor

from splitft.common.state import State
from splitft.job.settings import TrainingSettings
from splitft.lora.basis import unstack_bases
from splitft.lora.blocks import (
    Adapter,
    Layout,
    flatten,
    rank_of,
    resize,
    to_device,
    trained_specs,
    trained_tensors,
    unflatten,
)
from splitft.lora.moments import pack_blocks, unpack_blocks
from splitft.lora.optimizer import TrainedAdapter
from splitft.lora.ranks import held_blocks
from splitft.wire.messages import AdapterDown, AdapterUp, OptimizerState


class HeldAdapter:
    """One client's adapters."""

    def __init__(self, settings: TrainingSettings, num_blocks: int, device: torch.device) -> None:
        self.blocks = held_blocks(settings, num_blocks, 0)  # the division of the model at the client's cut
        self.handed_out: Adapter = {}  # the global adapter of the held blocks
        self.trained = TrainedAdapter(settings)  # the same at the client's ranks
        self._settings = settings
        self._device = device

    def start(self, adapter: Adapter) -> None:
        """Hold a whole model with this adapter."""
        self._divide(self.blocks.num_blocks)
        self.handed_out = to_device(adapter, self._device)
        self.trained.load(self._at_ranks())

    def receive(self, message: AdapterDown, layout: Layout) -> OptimizerState | None:
        """Take a hand-out. Return the optimizer state of blocks that leave with a lower cut.

        Args:
            layout: LoRA tensors of the blocks in this process.

        Raises:
            ValueError: The message does not have what this client lacks.
        """
        held = held_blocks(self._settings, self.blocks.num_blocks, message.cut).on_client(layout)
        whole = {*message.blocks} - {*message.frozen} | self.handed_out.keys()
        if lacking := [block for block in (*held, *message.frozen) if block not in whole]:
            raise ValueError(f"no adapters of blocks {lacking[:9]}, which this client does not have")
        # Blocks that the client lacks; of frozen ones B alone, at whose rank their A goes on.
        self._divide(message.cut)
        for block, values in zip(message.blocks, message.values, strict=True):
            specs = trained_specs(layout[block], block in message.frozen)
            came = unflatten(values.to(self._device), specs)
            self.handed_out[block] = resize(self.handed_out.get(block, {}) | came, rank_of(came))
        self.handed_out = {block: self.handed_out[block] for block in self.blocks.on_client(layout)}

        # Optimizer state follows changes of basis, and moves with blocks that are new here.
        bases = unstack_bases(message.rebased, message.bases, layout)
        freeze_a = self._settings.freeze_a
        moved = unpack_blocks(message.moved, message.moved_steps, message.moments, layout, freeze_a)
        given_up = self.trained.load(self._at_ranks(), bases, moved)
        return OptimizerState(message.round, *pack_blocks(given_up)) if given_up else None

    def update(self, round_: int, norms: Tensor | None) -> AdapterUp:
        """Return the trained adapters for the average."""
        blocks, freeze_a = self.trained.blocks, self._settings.freeze_a
        values = tuple(flatten(trained_tensors(block, freeze_a)) for block in blocks.values())
        return AdapterUp(round_, blocks=tuple(blocks), values=values, grad_norms=norms)

    def state(self) -> State:
        """Return cut and adapters as a checkpoint holds them."""
        return {"cut": self.blocks.cut, "adapter": self.handed_out, "trained": self.trained.state()}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`."""
        self._divide(state["cut"])
        self.handed_out = to_device(state["adapter"], self._device)
        self.trained.load_state(state["trained"], self._device)

    def _divide(self, cut: int) -> None:
        self.blocks = held_blocks(self._settings, self.blocks.num_blocks, cut)

    def _at_ranks(self) -> Adapter:
        ranks = self.blocks.ranks(self._settings)
        return {block: resize(values, ranks[block]) for block, values in self.handed_out.items()}
