"""Promises of the means of adapters: by factors, by products, and with a frozen A."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapters import SHAPES, block, largest_difference, product
from splitft.lora.blocks import BlockAdapter, rank_of, resize
from splitft.lora.means import Mean, average, by_rank, exact, freeze_a

BLOCKS = st.lists(st.builds(block, st.integers(1, 5), st.integers(0, 2**31)), min_size=1, max_size=5)
WEIGHTS = st.lists(st.floats(1e-3, 1e9), min_size=5, max_size=5)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), weight=st.floats(1e-6, 1e12), scale=st.floats(1e-6, 1e6))
def test_the_average_of_one_is_that_one(seed: int, weight: float, scale: float) -> None:
    own = block(3, seed, scale)
    mean = average([own], [weight])
    assert list(mean) == list(own)
    assert all(torch.equal(mean[name], own[name]) for name in own)
    assert all(mean[name] is not own[name] for name in own)


@settings(deadline=None)
@given(blocks=BLOCKS, weights=WEIGHTS, factor=st.floats(1e-3, 1e6))
def test_only_the_proportions_of_the_weights_count(
    blocks: list[BlockAdapter], weights: list[float], factor: float
) -> None:
    weights = weights[: len(blocks)]
    scaled = [w * factor for w in weights]
    assert largest_difference(average(blocks, weights), average(blocks, scaled)) <= 1e-6


@settings(deadline=None)
@given(blocks=BLOCKS, weights=WEIGHTS, order=st.randoms(use_true_random=False))
def test_the_order_counts_no_more_than_rounding(
    blocks: list[BlockAdapter], weights: list[float], order: random.Random
) -> None:
    pairs = list(zip(blocks, weights, strict=False))
    shuffled = order.sample(pairs, len(pairs))
    first, second = average(*zip(*pairs, strict=True)), average(*zip(*shuffled, strict=True))
    assert largest_difference(first, second) <= 1e-6


@settings(deadline=None)
@given(blocks=BLOCKS, weights=WEIGHTS)
def test_the_average_is_the_one_by_hand_with_smaller_ranks_padded(
    blocks: list[BlockAdapter], weights: list[float]
) -> None:
    weights = weights[: len(blocks)]
    mean = average(blocks, weights)
    rank = max(rank_of(b) for b in blocks)
    for name, got in mean.items():
        axis = 0 if "lora_A" in name else 1
        wanted = torch.zeros(got.shape, dtype=torch.float64)
        for own, weight in zip(blocks, weights, strict=True):
            part = wanted.narrow(axis, 0, rank_of(own))
            part += own[name].double() * weight / math.fsum(weights)
        assert got.shape[axis] == rank
        assert torch.allclose(got, wanted.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "weights",
    [[], [1.0], [0.0, 0.0], [1.0, -0.5], [-1.0, -1.0], [float("nan"), 1.0], [float("inf"), 1.0], [1.0] * 3],
)
def test_bad_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        average([block(2, 0), block(2, 1)], weights)
    with pytest.raises(ValueError, match="adapters"):
        average([], [])


def mean_product(blocks: list[BlockAdapter], weights: list[float], name: str) -> Tensor:
    total = math.fsum(weights)
    return sum(
        (product(own, name) * (w / total) for own, w in zip(blocks, weights, strict=True)),
        torch.zeros(1, dtype=torch.float64),
    )


@settings(deadline=None)
@given(blocks=BLOCKS, weights=WEIGHTS)
def test_by_rank_averages_each_component_over_its_holders(
    blocks: list[BlockAdapter], weights: list[float]
) -> None:
    weights = weights[: len(blocks)]
    got = by_rank(blocks, weights)
    for name, tensor in got.items():
        axis = 0 if "lora_A" in name else 1
        for k in range(tensor.shape[axis]):
            held = [(b[name].select(axis, k).double(), w) for b, w in zip(blocks, weights, strict=True)
                    if rank_of(b) > k]  # fmt: skip
            wanted = sum(t * w for t, w in held) / math.fsum(w for _, w in held)
            assert torch.allclose(tensor.select(axis, k).double(), wanted, rtol=1e-6, atol=1e-6)
    if len({rank_of(b) for b in blocks}) == 1:
        plain = average(blocks, weights)
        assert all(torch.equal(got[name], plain[name]) for name in got)


@settings(deadline=None)
@given(blocks=BLOCKS, weights=WEIGHTS)
def test_exact_is_the_best_approximation_of_the_mean_product(
    blocks: list[BlockAdapter], weights: list[float]
) -> None:
    weights = weights[: len(blocks)]
    got = exact(blocks, weights)
    rank = max(rank_of(b) for b in blocks)
    assert rank_of(got) == rank
    for name in SHAPES:
        wanted = mean_product(blocks, weights, name)
        singular = torch.linalg.svdvals(wanted)
        error = (product(got, name) - wanted).norm()
        assert error <= singular[rank:].norm() * (1 + 1e-5) + 1e-5 * singular[0]


@settings(deadline=None)
@given(blocks=BLOCKS, weights=WEIGHTS)
def test_exact_of_one_product_in_many_bases_is_that_product(
    blocks: list[BlockAdapter], weights: list[float]
) -> None:
    """Factors that differ by a change of basis only: their average is another product, the exact mean not."""
    first = blocks[0]
    turn = torch.linalg.qr(torch.randn(rank_of(first), rank_of(first)))[0]
    turned = {n: (turn @ t if ".lora_A." in n else t @ turn.T) for n, t in first.items()}
    got = exact([first, turned], weights[:2])
    for name in SHAPES:
        assert torch.allclose(product(got, name), product(first, name), atol=1e-4)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), ranks=st.lists(st.integers(1, 4), min_size=1, max_size=5), weights=WEIGHTS)
def test_frozen_a_makes_the_plain_average_exact(seed: int, ranks: list[int], weights: list[float]) -> None:
    weights = weights[: len(ranks)]
    common = block(4, seed)
    blocks = []
    for i, rank in enumerate(ranks):
        own = resize(block(4, seed + 1 + i), rank)
        blocks.append({n: resize(common, rank)[n] if ".lora_A." in n else t for n, t in own.items()})
    got = freeze_a(blocks, weights)
    for name in SHAPES:
        a = got[f"{name}.lora_A.weight"]
        assert torch.equal(a, common[f"{name}.lora_A.weight"][: len(a)])
        wanted = mean_product(blocks, weights, name)
        assert torch.allclose(product(got, name), wanted, atol=1e-5 * (1 + float(wanted.norm())))


def test_frozen_a_that_is_not_common_is_refused() -> None:
    with pytest.raises(ValueError, match="frozen"):
        freeze_a([block(2, 0), block(2, 1)], [1.0, 1.0])


def test_exact_stays_near_the_average_where_clients_agree() -> None:
    """Optimizer moments belong to components: where nothing changed, the factors must not turn."""
    own = block(3, 5)
    got = exact([own, own], [1.0, 2.0])
    for name in SHAPES:
        a, b = got[f"{name}.lora_A.weight"].double(), own[f"{name}.lora_A.weight"].double()
        cosine = (a * b).sum() / (a.norm() * b.norm())
        assert cosine > 0.9


@pytest.mark.parametrize("mean", [by_rank, average, exact, freeze_a])
def test_a_run_that_diverged_gives_back_what_is_not_finite(mean: Mean) -> None:
    broken = {name: t.clone() for name, t in block(2, 0).items()}
    broken["attn.q.lora_B.weight"][0, 0] = float("nan")
    got = mean([broken, {n: t.clone() for n, t in broken.items()}], [1.0, 1.0])
    assert not got["attn.q.lora_B.weight"].isfinite().all()
