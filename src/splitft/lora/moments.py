"""AdamW's state of one block, and how it moves: with its block, through ranks, through a change of basis.

No optimizer state is lost when a cut moves (the paper is silent). Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitft.lora.basis import Basis
from splitft.lora.blocks import (
    BlockAdapter,
    TensorSpec,
    flatten,
    from_matrices,
    has_rank,
    is_a,
    matrices,
    name_of_a,
    rank_axis,
    rank_of,
    resize,
    trained_specs,
    unflatten,
)


@dataclass(frozen=True)
class Moments:
    """steps: optimizer steps of each tensor; exp_avg, exp_avg_sq: running means of gradients and squares.

    Tensors are named and shaped like the block's trained adapter, at the rank at which it is trained.
    """

    steps: tuple[int, ...]
    exp_avg: BlockAdapter
    exp_avg_sq: BlockAdapter


def resize_moments(moments: Moments, rank: int) -> Moments:
    """Keep the leading components, or add new ones: without a direction yet, of the others' mean size.

    With a second moment of zero a new component would take first steps several times the learning rate,
    since the bias correction has long faded.
    """
    average, square = resize(moments.exp_avg, rank), resize_squares(moments.exp_avg_sq, rank)
    return Moments(moments.steps, average, square)


def resize_squares(block: BlockAdapter, rank: int) -> BlockAdapter:
    """Keep the leading components of squares, or add new ones of the others' mean size."""
    have, resized = rank_of(block), resize(block, rank)
    for name, tensor in resized.items():
        if rank > have and has_rank(name):
            axis = rank_axis(name)
            known, new = tensor.narrow(axis, 0, have), tensor.narrow(axis, have, rank - have)
            new.copy_(known.mean(dim=axis, keepdim=True).expand_as(new))
    return resized


def rebase(moments: Moments, basis: Basis) -> Moments:
    """Carry moments through A' = T·A, B' = B·T⁻¹.

    First moments transform as gradients do, A: T⁻ᵀ·m and B: m·Tᵀ. Second moments take the squares of these
    coefficients, as for gradient components that are not correlated. A holder of fewer components than T has
    had none of the others: they count as zero.
    """
    rank = len(next(iter(basis.values())))
    average, square = (matrices(resize(of, rank)) for of in (moments.exp_avg, moments.exp_avg_sq))
    for name in filter(has_rank, average):
        change, on_a = basis[name_of_a(name)].double(), is_a(name)
        turn = torch.linalg.pinv(change).T if on_a else change
        average[name] = turned(average[name], turn, on_a)
        square[name] = turned(square[name], turn.square(), on_a)
    like = moments.exp_avg
    return Moments(moments.steps, from_matrices(average, like), from_matrices(square, like))


def mean_moments(given: Sequence[Moments]) -> Moments:
    """Return the mean of several holders' moments at their highest rank, and the most of their steps."""
    top = max(rank_of(moments.exp_avg) for moments in given)
    given = [resize_moments(moments, top) for moments in given]

    def mean(blocks: Sequence[BlockAdapter]) -> BlockAdapter:
        return {name: torch.stack([block[name] for block in blocks]).mean(0) for name in blocks[0]}

    steps = tuple(max(counts) for counts in zip(*(m.steps for m in given), strict=True))
    return Moments(steps, mean([m.exp_avg for m in given]), mean([m.exp_avg_sq for m in given]))


def pack_blocks(
    moments: Mapping[int, Moments],
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[Tensor, ...]]:
    """Return (blocks, steps of all their tensors, one vector a block) as messages carry them.

    A vector has both running means one after the other, in float32: (2 · values,).
    """
    steps = tuple(step for m in moments.values() for step in m.steps)
    vectors = (torch.cat([flatten(m.exp_avg), flatten(m.exp_avg_sq)]) for m in moments.values())
    return tuple(moments), steps, tuple(vectors)


def unpack_blocks(
    blocks: Sequence[int],
    steps: Sequence[int],
    values: Sequence[Tensor],
    layout: Mapping[int, Sequence[TensorSpec]],
    freeze_a: bool,
) -> dict[int, Moments]:
    """Undo `pack_blocks`. Raises ValueError where blocks, steps and values do not fit each other."""
    moments: dict[int, Moments] = {}
    for block, vector in zip(blocks, values, strict=True):
        if block not in layout:
            raise ValueError(f"optimizer state of block {block}, which has no adapter")
        specs = trained_specs(layout[block], freeze_a)
        own, steps = tuple(steps[: len(specs)]), steps[len(specs) :]
        if len(own) != len(specs) or vector.ndim != 1 or vector.numel() % 2:
            raise ValueError("optimizer state does not fit the block's layout")
        average, square = vector.chunk(2)
        moments[block] = Moments(own, unflatten(average, specs), unflatten(square, specs))
    if steps:
        raise ValueError("more step counts than tensors")
    return moments


def turned(tensor: Tensor, turn: Tensor, on_a: bool) -> Tensor:
    """Return a matrix with its components turned: of an A (rank, in), or of a B (out, rank)."""
    turn, wide = turn.to(tensor.device), tensor.double()
    return (turn @ wide if on_a else wide @ turn.T).to(tensor)
