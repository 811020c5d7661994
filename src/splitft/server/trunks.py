"""The trunk adapter of one client, or of all that share it, under training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median_low

import torch
from torch import Tensor

from splitft.common.state import State
from splitft.job.settings import TrainingSettings
from splitft.lora.basis import unstack_bases
from splitft.lora.blocks import Adapter, Layout, rank_of, resize, tensors_of
from splitft.lora.moments import Moments, pack_blocks, rebase, resize_moments, unpack_blocks
from splitft.lora.optimizer import LearningRates, TrainedAdapter, total_norm
from splitft.server.seam import TrunkLoad, TrunkMoments, TrunkUpdate
from splitft.server.step import AtTail
from splitft.wire.messages import TailGradients

OUTLIER_NORM = 10.0  # times the norm of a shared trunk's gradient that a client's front and tail may have


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


def _length(*norms: Tensor) -> float:
    """Return the norm of a gradient from those of its tensors; 0 where there are none."""
    return float(total_norm(norms)) if any(norm.numel() for norm in norms) else 0.0


def believable(
    theirs: Mapping[str, tuple[Tensor, Tensor]], trunk: Tensor
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Return the gradient norms that clients state, none of which may shrink a shared trunk's step at will.

    A client's are scaled down to OUTLIER_NORM times the trunk's norm, or that of the clients' lower median
    where this is larger: an honest front or tail is far below it. A single client's stay as they are.

    Args:
        theirs: Norms before and after the trunk, of each client.
        trunk: Norms of the trunk's own tensors.
    """
    if len(theirs) < 2:
        return theirs
    lengths = {client: _length(*parts) for client, parts in theirs.items()}
    most = OUTLIER_NORM * max(_length(trunk), median_low(lengths.values()))
    scales = {client: most / length if length > most else 1.0 for client, length in lengths.items()}

    def scaled(norms: Tensor, scale: float) -> Tensor:
        return norms if scale == 1.0 else torch.where(norms > 0, norms * scale, norms)

    return {c: (scaled(front, scales[c]), scaled(tail, scales[c])) for c, (front, tail) in theirs.items()}


@dataclass(eq=False)
class Trunk:
    """Trunk adapters with their optimizer. Its step i is taken when the clients' norms of step i arrive.

    Clipping needs the norm over front, trunk and tail; the client's share comes with its next message, so
    that clipping costs no round trip. With one client this is the clipping of the unsplit model, bit by bit.
    """

    settings: TrainingSettings
    layout: Layout  # places of adapters in the model
    device: torch.device  # where the trunk is trained
    learning_rate: Callable[[int], LearningRates]  # of each optimizer step

    def __post_init__(self) -> None:
        self.trained = TrainedAdapter(self.settings)
        self.tails = Tails()
        self._waiting: tuple[int, Tensor, Mapping[str, float]] | None = None  # step, norms, weights
        self._mark: State = {}
        self._first: State | None = None  # the first mark since the hand-out

    def load(self, adapter: Adapter, load: TrunkLoad) -> TrunkMoments:
        """Start from the global adapter; return the optimizer state of blocks that leave the trunk."""
        self._first = None
        bases = unstack_bases(load.rebased, load.bases, self.layout)
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
        freeze_a = self.settings.freeze_a
        came = unpack_blocks(moments.blocks, moments.steps, moments.values, self.layout, freeze_a)
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
        self.trained.add_penalty()
        if not self.settings.max_grad_norm:
            self.trained.step(self.learning_rate(step), None)
            return None
        norms = self.trained.gradient_norms()
        if self.settings.max_staleness:
            self.trained.step(self.learning_rate(step), total_norm([norms]))
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
        theirs = believable(theirs, norms)
        fronts, tails = ([theirs[c][part] * w**0.5 for c, w in weights.items()] for part in (0, 1))
        self.trained.step(self.learning_rate(step), total_norm([*fronts, norms, *tails]))

    def update(self, rows: Mapping[str, int]) -> TrunkUpdate:
        """Return what the trunk has trained. rows: token rows seen of each client."""
        values = self.trained.values()
        return TrunkUpdate(tuple(rows), tuple(rows.values()), tuple(values), tensors_of(values, self.layout))

    def mark(self) -> None:
        """Remember where its clients' training starts, for `rewind`."""
        self._mark = self.trained.state()
        self._first = self._first or self._mark

    def rewind(self, *, first: bool = False) -> None:
        """Roll back to the last mark. first: to the first one since the trunk was handed out."""
        self.load_state((self._first if first else None) or self._mark)

    def load_state(self, state: State) -> None:
        """Restore a state of `trained`; nothing is under way then."""
        self._waiting, self.tails = None, Tails()
        self.trained.load_state(state, self.device)
