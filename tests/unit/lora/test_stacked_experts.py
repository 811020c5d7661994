"""Adapters on fused experts: what is done to them is what is done to each expert's own adapter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from adapters import equal
from splitft.lora.basis import basis_between, canonical_block, stack_bases, truncation_error, unstack_bases
from splitft.lora.blocks import (
    BlockAdapter,
    TensorSpec,
    from_matrices,
    initial_adapter,
    matrices,
    rank_of,
    resize,
    widen,
)
from splitft.lora.moments import Moments, rebase, resize_moments
from splitft.lora.rules import find_mean

EXPERTS, RANK, IN, OUT = 3, 4, 6, 5
A, B = "mlp.experts.lora_A.experts", "mlp.experts.lora_B.experts"
LAYOUT = {0: (TensorSpec(A, (EXPERTS, RANK, IN)), TensorSpec(B, (OUT, RANK, EXPERTS)))}
RANKS = st.integers(1, RANK)
SEEDS = st.integers(0, 2**31)


def stacked(rank: int, seed: int) -> BlockAdapter:
    generator = torch.Generator().manual_seed(seed)
    return {spec.name: torch.randn(spec.at_rank(rank), generator=generator) for spec in LAYOUT[0]}


def of_expert(block: BlockAdapter, expert: int) -> BlockAdapter:
    """The adapter of one expert as that of a plain linear layer."""
    return {"up.lora_A.weight": block[A][expert], "up.lora_B.weight": block[B][:, :, expert]}


def assert_each_expert(found: BlockAdapter, wanted: Callable[[int], BlockAdapter]) -> None:
    for expert in range(EXPERTS):
        assert_close(list(of_expert(found, expert).values()), list(wanted(expert).values()))


@settings(deadline=None)
@given(rank=RANKS, seed=SEEDS)
def test_matrices_come_apart_and_together(rank: int, seed: int) -> None:
    block = stacked(rank, seed)
    assert all(matrix.ndim == 2 for matrix in matrices(block).values())
    assert equal(from_matrices(matrices(block), block), block)


@settings(deadline=None)
@given(old=RANKS, new=RANKS, seed=SEEDS)
def test_a_change_of_rank_is_one_of_each_expert(old: int, new: int, seed: int) -> None:
    block = stacked(old, seed)
    assert rank_of(resize(block, new)) == new
    assert_each_expert(resize(block, new), lambda expert: resize(of_expert(block, expert), new))


def test_a_new_adapter_has_rows_of_each_expert_and_widens_without_a_change_of_the_function() -> None:
    new = initial_adapter(LAYOUT, 2, seed=1)[0]
    assert new[A].shape == (EXPERTS, 2, IN) and not new[B].any()
    assert 0.3 < float(new[A].abs().max()) <= IN**-0.5
    wide = widen(stacked(2, 0), RANK, LAYOUT[0], 1, 0)
    assert wide[A][:, 2:].abs().min() > 0 and not wide[B][:, 2:].any()


@settings(deadline=None, max_examples=30)
@given(ranks=st.lists(RANKS, min_size=2, max_size=3), seed=SEEDS, name=st.sampled_from(["by_rank", "exact"]))
def test_a_mean_is_that_of_each_expert(ranks: list[int], seed: int, name: str) -> None:
    blocks = [stacked(rank, seed + i) for i, rank in enumerate(ranks)]
    weights = [float(i + 1) for i in range(len(ranks))]
    found = find_mean(name)(blocks, weights)
    assert_each_expert(found, lambda e: find_mean(name)([of_expert(block, e) for block in blocks], weights))


def test_a_frozen_a_stays_and_another_one_is_refused() -> None:
    first, second = stacked(RANK, 0), stacked(2, 1)
    second[A] = first[A][:, :2].clone()
    assert torch.equal(find_mean("freeze_a")([first, second], [1.0, 1.0])[A], first[A])
    second[A][1, 0, 0] += 1
    with pytest.raises(ValueError, match="is frozen"):
        find_mean("freeze_a")([first, second], [1.0, 1.0])


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_a_change_of_basis_is_one_of_each_expert(seed: int) -> None:
    block = stacked(RANK, seed)
    new = canonical_block(block)
    assert_each_expert(new, lambda expert: canonical_block(of_expert(block, expert)))
    assert truncation_error(new, RANK) == 0 < truncation_error(new, 1) < 1
    basis = basis_between(block, new)
    assert len(basis) == EXPERTS
    (back,) = unstack_bases(*stack_bases({0: [basis]}), LAYOUT)[0]
    assert back.keys() == basis.keys() and all(torch.equal(back[name], basis[name]) for name in basis)


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, rank=RANKS)
def test_moments_move_as_those_of_each_expert(seed: int, rank: int) -> None:
    block, squares = stacked(RANK, seed), {n: t.square() for n, t in stacked(RANK, seed + 1).items()}
    basis = basis_between(block, canonical_block(block))
    moved = rebase(resize_moments(Moments((2, 2), block, squares), rank), basis)
    for expert in range(EXPERTS):
        one = Moments((2, 2), of_expert(block, expert), of_expert(squares, expert))
        own = basis_between(of_expert(block, expert), canonical_block(of_expert(block, expert)))
        wanted = rebase(resize_moments(one, rank), own)
        for found, like in ((moved.exp_avg, wanted.exp_avg), (moved.exp_avg_sq, wanted.exp_avg_sq)):
            assert_close(list(of_expert(found, expert).values()), list(like.values()), rtol=1e-3, atol=1e-4)
