"""The server optimizer of a run, with its state of every block, which stays with the block."""

from __future__ import annotations

from splitft.common.state import State
from splitft.job.settings import AverageSettings
from splitft.lora.basis import Basis
from splitft.lora.blocks import BlockAdapter, rank_of, resize, trained_tensors
from splitft.lora.server_optimizer import (
    ServerState,
    make_server_optimizer,
    rebase_state,
    resize_state,
)


class ServerSteps:
    """Steps of the global adapter. Without a server optimizer every block becomes its average."""

    def __init__(self, settings: AverageSettings) -> None:
        self._optimizer = make_server_optimizer(settings)
        self._freeze_a = settings.freeze_a
        self._states: dict[int, ServerState] = {}

    def step(self, block: int, old: BlockAdapter, average: BlockAdapter) -> BlockAdapter:
        """Return the new global adapter of a block. Raises JobError where a user's optimizer is wrong."""
        if self._optimizer is None:
            return average
        rank = rank_of(average)
        self.resize(block, rank)
        before = trained_tensors(resize(old, rank), self._freeze_a)
        mean = trained_tensors(average, self._freeze_a)
        new, self._states[block] = self._optimizer.step(before, mean, self._states.get(block, {}))
        return {name: new.get(name, tensor) for name, tensor in average.items()}

    def rebase(self, block: int, basis: Basis) -> None:
        """Carry a block's state through a change of basis."""
        if self._optimizer is not None and block in self._states:
            self._states[block] = rebase_state(self._states[block], basis, self._optimizer.squares)

    def resize(self, block: int, rank: int) -> None:
        """Bring a block's state to a rank."""
        if self._optimizer is not None and block in self._states:
            self._states[block] = resize_state(self._states[block], rank, self._optimizer.squares)

    def state(self) -> State:
        """Return the state of all blocks as a checkpoint holds it."""
        return {"blocks": dict(self._states)}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`."""
        self._states = {block: dict(slots) for block, slots in state["blocks"].items()}
