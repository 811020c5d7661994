"""All trunks of a server by key: one a client, or the one that all clients share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from splitft.common.state import State
from splitft.job.settings import TrainingSettings
from splitft.lora.basis import unstack_bases
from splitft.lora.blocks import Adapter, Layout, resize, tensors_of
from splitft.lora.moments import pack_blocks, unpack_blocks
from splitft.lora.optimizer import global_step, learning_rates
from splitft.server.seam import TrunkLoad, TrunkMoments, TrunkUpdate, by_trunk
from splitft.server.trunk import Trunk


class Trunks:
    """Trunks, their marks and their optimizer steps. Clients are named; the key of their trunk is known here.

    layout: the places of adapters in the model; device: where trunks are trained.
    """

    def __init__(self, settings: TrainingSettings, layout: Layout, device: torch.device) -> None:
        self._settings = settings
        self._layout = layout
        self._device = device
        self._shared = settings.server_adapter == "shared"
        self._learning_rate = learning_rates(settings)
        self._trunks: dict[str, Trunk] = {}
        self._marks: dict[str, State] = {}

    def by_key(self, clients: Iterable[str]) -> dict[str, list[str]]:
        """Return {key of a trunk: those of the clients that train it}."""
        return by_trunk(clients, self._shared)

    def key_of(self, client: str) -> str:
        """Return the key of the trunk that a client trains."""
        (key,) = self.by_key([client])
        return key

    def of(self, client: str) -> Trunk:
        """Return the trunk that a client trains."""
        return self._trunks[self.key_of(client)]

    def load(self, key: str, adapter: Adapter, load: TrunkLoad) -> TrunkMoments:
        """Load a trunk from the global adapter; return the optimizer state of blocks that leave it.

        adapter: the global adapter of these blocks.
        """
        trunk = self._trunks[key] = self._trunks.get(key) or self._new()
        bases = unstack_bases(load.rebased, load.bases, self._layout)
        leaving = trunk.moments(load.leaving, bases)
        held = {b: resize(adapter[b], rank) for b, rank in zip(load.blocks, load.ranks, strict=True)}
        trunk.load(held, {block: bases[block] for block in held if block in bases})
        return TrunkMoments(*pack_blocks(leaving))

    def adopt(self, key: str, moments: TrunkMoments) -> None:
        """Give a trunk the optimizer state of blocks that came back to it."""
        freeze_a = self._settings.freeze_a
        self._trunks[key].adopt(
            unpack_blocks(moments.blocks, moments.steps, moments.values, self._layout, freeze_a)
        )

    def take_norms(self, norms: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take the optimizer steps that wait for these clients' gradient norms, (front, tail) of each."""
        for key, clients in self.by_key(norms).items():
            front, tail = ({client: norms[client][part] for client in clients} for part in (0, 1))
            self._trunks[key].take_step(front, tail)

    def close_step(
        self, steps: Mapping[str, tuple[int, int]], shares: Mapping[str, float]
    ) -> dict[str, Tensor | None]:
        """Close local steps whose gradients are complete; return {client: the gradient norms of its trunk}.

        Args:
            steps: Round and local step of each client.
            shares: Weight of each client in its trunk's gradient.
        """
        norms: dict[str, Tensor | None] = {}
        for key, clients in self.by_key(steps).items():
            step = global_step(self._settings, *steps[clients[0]])
            own = self._trunks[key].close_step(step, {client: shares[client] for client in clients})
            norms |= dict.fromkeys(clients, own)
        return norms

    def update(self, key: str, rows: Mapping[str, int]) -> TrunkUpdate:
        """Return what a trunk has trained. rows: token rows that were seen of each of its clients."""
        values = self._trunks[key].trained.values()
        tensors = tensors_of(values, self._layout)
        return TrunkUpdate(tuple(rows), tuple(rows.values()), tuple(values), tensors)

    def mark(self, clients: Sequence[str]) -> None:
        """Remember where these clients' training starts, for `rewind`."""
        for key in self.by_key(clients):
            self._marks[key] = self._trunks[key].trained.state()

    def rewind(self, clients: Sequence[str]) -> None:
        """Roll back the trunks of these clients to their last marks."""
        for key in self.by_key(clients):
            self._trunks[key] = self._new()
            self._trunks[key].trained.load_state(self._marks[key], self._device)

    def state(self) -> State:
        """Return adapters and optimizer state of all trunks, as a checkpoint holds them."""
        return {key: trunk.trained.state() for key, trunk in self._trunks.items()}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()` after a round."""
        self._trunks = {key: self._new() for key in state}
        for key, trunk in self._trunks.items():
            trunk.trained.load_state(state[key], self._device)

    def _new(self) -> Trunk:
        return Trunk(self._settings, self._learning_rate)
