"""Trunk adapters under training: one of each client, or one that all clients share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from splitft.common.state import State
from splitft.job.settings import TrainingSettings
from splitft.lora.basis import unstack_bases
from splitft.lora.blocks import Adapter, Layout, rank_of, resize, tensors_of
from splitft.lora.moments import Moments, pack_blocks, rebase, resize_moments, unpack_blocks
from splitft.lora.optimizer import TrainedAdapter, global_step, learning_rates, total_norm
from splitft.server.seam import TrunkLoad, TrunkMoments, TrunkUpdate, by_trunk


class Trunk:
    """Trunk adapters with their optimizer. Its step i is taken when the clients' norms of step i arrive.

    Clipping needs the norm over front, trunk and tail; the client's share comes with its next message, so
    that clipping costs no round trip. With one client this is the clipping of the unsplit model, bit by bit.
    """

    def __init__(self, settings: TrainingSettings, learning_rate: Callable[[int], float]) -> None:
        self.trained = TrainedAdapter(settings, settings.freeze_a)
        self._settings = settings
        self._learning_rate = learning_rate
        self._waiting: tuple[int, Tensor, Mapping[str, float]] | None = None  # step, norms, weights

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

    def take_step(self, front: Mapping[str, Tensor], tail: Mapping[str, Tensor]) -> None:
        """Take the step that waits, if one does, given the clients' norms before and after the trunk."""
        if self._waiting is None:
            return
        (step, norms, weights), self._waiting = self._waiting, None
        if missing := [client for client in weights if client not in front]:
            raise ValueError(f"no gradient norms came from {', '.join(missing)}")
        fronts, tails = ([part[c] * w**0.5 for c, w in weights.items()] for part in (front, tail))
        self.trained.step(self._learning_rate(step), total_norm([*fronts, norms, *tails]))


class Trunks:
    """All trunks by key, with their marks; clients are named, the key of their trunk is known here.

    Args:
        layout: Places of adapters in the model.
        device: Where trunks are trained.
    """

    def __init__(self, settings: TrainingSettings, layout: Layout, device: torch.device) -> None:
        self._settings = settings
        self._layout = layout
        self._device = device
        self._learning_rate = learning_rates(settings)
        self._trunks: dict[str, Trunk] = {}
        self._marks: dict[str, State] = {}

    def by_key(self, clients: Iterable[str]) -> dict[str, list[str]]:
        """Return {key of a trunk: those of the clients that train it}."""
        return by_trunk(clients, self._settings.server_adapter == "shared")

    def key_of(self, client: str) -> str:
        """Return the key of the trunk that a client trains."""
        return next(iter(self.by_key([client])))

    def of(self, client: str) -> TrainedAdapter:
        """Return the adapter that a client trains in its trunk."""
        return self._trunks[self.key_of(client)].trained

    def load(self, key: str, adapter: Adapter, load: TrunkLoad) -> TrunkMoments:
        """Load a trunk from the global adapter; return the optimizer state of blocks that leave it."""
        trained = self._trunks.setdefault(key, self._new()).trained
        bases = unstack_bases(load.rebased, load.bases, self._layout)
        leaving: dict[int, Moments] = {}
        for block in load.leaving:
            moments = trained.moments(block) if block in trained.blocks else None
            if moments is not None:
                for basis in bases.get(block, ()):
                    moments = rebase(moments, basis)
                leaving[block] = moments
        trained.load({b: resize(adapter[b], r) for b, r in zip(load.blocks, load.ranks, strict=True)}, bases)
        return TrunkMoments(*pack_blocks(leaving))

    def adopt(self, key: str, moments: TrunkMoments) -> None:
        """Give a trunk the optimizer state of blocks that came back, where it has none of its own."""
        trained, freeze_a = self._trunks[key].trained, self._settings.freeze_a
        came = unpack_blocks(moments.blocks, moments.steps, moments.values, self._layout, freeze_a)
        blocks: Adapter = {b: {**block} for b, block in trained.blocks.items()}
        new = {b: m for b, m in came.items() if b in blocks and trained.moments(b) is None}
        trained.load(blocks, moments={b: resize_moments(m, rank_of(blocks[b])) for b, m in new.items()})

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

    def updates(self, rows: Mapping[str, int]) -> dict[str, TrunkUpdate]:
        """Return what the trunks of these clients have trained. rows: token rows seen of each client."""
        updates = {}
        for key, clients in self.by_key(rows).items():
            values = self._trunks[key].trained.values()
            seen, tensors = tuple(rows[client] for client in clients), tensors_of(values, self._layout)
            updates[key] = TrunkUpdate(tuple(clients), seen, tuple(values), tensors)
        return updates

    def mark(self, clients: Sequence[str]) -> None:
        """Remember where these clients' training starts, for `rewind`."""
        for key in self.by_key(clients):
            self._marks[key] = self._trunks[key].trained.state()

    def rewind(self, clients: Sequence[str]) -> None:
        """Roll back the trunks of these clients to their last marks."""
        for key in self.by_key(clients):
            self._restore(key, self._marks[key])

    def state(self) -> State:
        """Return adapters and optimizer state of all trunks, as a checkpoint holds them."""
        return {key: trunk.trained.state() for key, trunk in self._trunks.items()}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()` after a round."""
        self._trunks = {}
        for key, kept in state.items():
            self._restore(key, kept)

    def _restore(self, key: str, state: State) -> None:
        self._trunks[key] = self._new()
        self._trunks[key].trained.load_state(state, self._device)

    def _new(self) -> Trunk:
        return Trunk(self._settings, self._learning_rate)
