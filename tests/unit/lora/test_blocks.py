"""Promises of adapters as plain tensors: how they travel, change rank, and start."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adapters import equal
from splitft.lora.basis import basis_between, canonical_block
from splitft.lora.blocks import (
    BlockAdapter,
    Layout,
    TensorSpec,
    flatten,
    initial_adapter,
    rank_axis,
    rank_of,
    resize,
    unflatten,
    widen,
)
from splitft.lora.means import Mean, average, by_rank, exact
from splitft.lora.moments import Moments, rebase, resize_moments
from splitft.lora.ranks import effective_ranks
from splitft.lora.robust import coordinate_median

SPECS = (
    TensorSpec("attn.q.lora_A.weight", (8, 6)),
    TensorSpec("attn.q.lora_B.weight", (5, 8)),
    TensorSpec("conv.lora_A.weight", (8, 3, 2)),
    TensorSpec("conv.lora_B.weight", (4, 8, 1)),
    TensorSpec("mlp.experts.lora_A.experts", (3, 8, 6)),
    TensorSpec("mlp.experts.lora_B.experts", (5, 8, 3)),
)
RANKS = st.integers(1, 8)


def median_of(blocks: Sequence[BlockAdapter], weights: Sequence[float]) -> BlockAdapter:
    return coordinate_median(blocks, 1)


def filled(rank: int, seed: int = 0) -> BlockAdapter:
    generator = torch.Generator().manual_seed(seed)
    return {spec.name: torch.randn(spec.at_rank(rank), generator=generator) for spec in SPECS}


@settings(deadline=None)
@given(rank=RANKS, seed=st.integers(0, 2**31))
def test_values_travel_and_come_back(rank: int, seed: int) -> None:
    block = filled(rank, seed)
    values = flatten(block)
    assert (values.ndim, values.dtype) == (1, torch.float32)
    assert equal(unflatten(values, SPECS), block)
    assert rank_of(unflatten(values, SPECS)) == rank


@settings(deadline=None)
@given(count=st.integers(0, 250))
def test_values_that_make_no_whole_rank_are_refused(count: int) -> None:
    unit = sum(math.prod(spec.at_rank(1)) for spec in SPECS)
    if count % unit == 0 and 1 <= count // unit <= 8:
        assert rank_of(unflatten(torch.zeros(count), SPECS)) == count // unit
        return
    with pytest.raises(ValueError, match="rank"):
        unflatten(torch.zeros(count), SPECS)


@pytest.mark.parametrize("shape", [(18, 1), (), (1, 18)])
def test_values_of_another_form_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        unflatten(torch.zeros(shape), SPECS)


@settings(deadline=None)
@given(have=RANKS, want=RANKS)
def test_ranks_change_by_cutting_or_by_zeros(have: int, want: int) -> None:
    block = filled(have)
    changed = resize(block, want)
    assert rank_of(changed) == want
    assert list(changed) == list(block)
    assert equal(resize(changed, min(have, want)), resize(block, min(have, want)))
    for spec in SPECS:
        added = changed[spec.name].narrow(rank_axis(spec.name), min(have, want), max(want - have, 0))
        assert not added.any()
    if want >= have:
        q = "attn.q.lora_{}.weight".format
        assert torch.allclose(changed[q("B")] @ changed[q("A")], block[q("B")] @ block[q("A")], atol=1e-5)
        assert equal(resize(changed, have), block)


@given(blocks=st.integers(2, 40), data=st.data(), r=st.integers(1, 64))
def test_the_blocks_on_both_sides_of_the_cut_have_the_lower_rank(
    blocks: int, data: st.DataObject, r: int
) -> None:
    cut, r_cut = data.draw(st.integers(1, blocks - 1)), data.draw(st.integers(1, r))
    ranks = effective_ranks(blocks, cut, r, r_cut)
    assert list(ranks) == list(range(blocks))
    assert all(ranks[block] == (r_cut if block in (cut - 1, cut) else r) for block in ranks)


@settings(deadline=None, max_examples=30)
@given(held=st.sets(st.integers(0, 6)), rank=RANKS, seed=st.integers(0, 2**63))
def test_a_new_adapter_does_not_depend_on_who_holds_which_block(held: set[int], rank: int, seed: int) -> None:
    whole: Layout = dict.fromkeys(range(7), SPECS)
    everything = initial_adapter(whole, rank, seed)
    part = initial_adapter({block: whole[block] for block in held}, rank, seed)
    assert part.keys() == held
    assert all(equal(part[block], everything[block]) for block in held)


def test_a_new_adapter_starts_as_pefts_does() -> None:
    specs = (TensorSpec("q.lora_A.weight", (64, 400)), TensorSpec("q.lora_B.weight", (300, 64)))
    adapter = initial_adapter({0: specs, 1: specs}, 64, 5)
    a, b = adapter[0]["q.lora_A.weight"], adapter[0]["q.lora_B.weight"]
    reference = nn.Linear(400, 64, bias=False).weight  # the default of nn.Linear is peft's default for A
    assert not b.any()
    assert a.abs().max() <= 1 / math.sqrt(400)
    assert float(a.std()) == pytest.approx(float(reference.detach().std()), rel=0.03)
    assert abs(float(a.mean())) < 1e-3
    assert not torch.equal(a, adapter[1]["q.lora_A.weight"])
    assert not torch.equal(a, initial_adapter({0: specs}, 64, 6)[0]["q.lora_A.weight"])


DORA = (*SPECS[:2], TensorSpec("attn.q.lora_magnitude_vector", (5,)))


@settings(deadline=None)
@given(rank=RANKS, want=RANKS)
def test_magnitudes_travel_and_stay_through_changes_of_rank(rank: int, want: int) -> None:
    block = {spec.name: torch.randn(spec.at_rank(rank)) for spec in DORA}
    assert equal(unflatten(flatten(block), DORA), block)
    name = DORA[2].name
    changed = resize(block, want)
    assert (rank_of(changed), list(changed)) == (want, list(block))
    assert torch.equal(changed[name], block[name])
    wide = widen(block, max(rank, want), DORA, 0, 1)
    assert torch.equal(wide[name], block[name])
    for few in (torch.zeros(3), torch.zeros(5), flatten(block)[1:]):
        with pytest.raises(ValueError, match="rank"):
            unflatten(few, DORA)


@pytest.mark.parametrize("merge", [by_rank, average, exact, median_of])
def test_magnitudes_are_averaged_over_all_whatever_their_ranks(merge: Mean) -> None:
    blocks = [{spec.name: torch.randn(spec.at_rank(rank)) for spec in DORA} for rank in (2, 4, 4)]
    name = DORA[2].name
    values = torch.stack([block[name].double() for block in blocks])
    wanted = values.median(0).values if merge is median_of else values.mean(0)
    merged = merge(blocks, [1.0, 1.0, 1.0])
    assert rank_of(merged) == 4
    assert torch.allclose(merged[name].double(), wanted)


def test_magnitudes_keep_their_moments_through_a_change_of_basis() -> None:
    block = {spec.name: torch.randn(spec.at_rank(4)) for spec in DORA}
    new = canonical_block(block)
    name = DORA[2].name
    assert torch.equal(new[name], block[name])
    moments = Moments((3, 3, 3), block, {key: tensor.square() for key, tensor in block.items()})
    moved = resize_moments(rebase(moments, basis_between(block, new)), 2)
    assert torch.equal(moved.exp_avg[name], block[name])
    assert moved.exp_avg[DORA[0].name].shape == (2, 6)
