"""Promises of the average and of the aggregator that hands out and takes in adapters."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitft.adapters import BlockAdapter, flatten, rank_of, resize
from splitft.aggregate import average
from splitft.aggregator import Aggregator

SHAPES = {"attn.q": (6, 5), "mlp.up": (5, 9)}  # in, out


def block(rank: int, seed: int, scale: float = 1.0) -> BlockAdapter:
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, (inputs, outputs) in SHAPES.items():
        result[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * scale
        result[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * scale
    return result


def largest_difference(first: BlockAdapter, second: BlockAdapter) -> float:
    assert list(first) == list(second)
    return max(float((first[n] - second[n]).abs().max()) for n in first)


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


def aggregator() -> Aggregator:
    return Aggregator({index: block(4, index) for index in range(5)})


def test_clients_get_what_they_hold_and_lack_and_nothing_else() -> None:
    server = aggregator()
    cuts = {"a": 1, "b": 3}
    first = server.hand_out(0, cuts, 4)
    assert {name: down.blocks for name, down in first.items()} == {"a": (0, 4), "b": (0, 1, 2, 4)}
    assert all(
        torch.equal(value, flatten(server.adapter[index]))
        for down in first.values()
        for index, value in zip(down.blocks, down.values, strict=True)
    )
    assert [(d.cut, d.blocks) for d in server.hand_out(1, cuts, 4).values()] == [(1, ()), (3, ())]

    server.aggregate({2: [(block(4, 7), 1.0)]}, set())
    second = server.hand_out(1, cuts, 4)
    assert {name: down.blocks for name, down in second.items()} == {"a": (), "b": (2,)}
    moved = server.hand_out(2, {"a": 3, "b": 1}, 4)
    assert {name: down.blocks for name, down in moved.items()} == {"a": (1, 2), "b": ()}
    back = server.hand_out(3, {"a": 3, "b": 3}, 5)["b"]
    assert back.blocks == (1, 2)  # what a client had to let go, it gets anew


def test_a_change_of_basis_is_announced_once_to_each_client() -> None:
    server = aggregator()
    server.hand_out(0, {"a": 2, "b": 2}, 5)
    before = [server.version[index] for index in range(5)]
    server.aggregate({0: [(block(4, 8), 1.0)], 1: [(block(4, 9), 1.0)]}, mixed={1})
    assert server.hand_out(1, {"a": 2}, 5)["a"].rebased == (1,)
    server.aggregate({0: [(block(4, 10), 1.0)], 1: [(block(4, 11), 1.0)]}, set())
    down = server.hand_out(2, {"a": 2, "b": 2}, 5)
    assert (down["a"].blocks, down["a"].rebased) == ((0, 1), ())
    assert (down["b"].blocks, down["b"].rebased) == ((0, 1), (1,))  # it missed a round
    assert server.rebased_since(1, before[1])
    assert not server.rebased_since(0, before[0])


def product(own: BlockAdapter, name: str, rank: int | None = None) -> Tensor:
    own = resize(own, rank) if rank else own
    return own[f"{name}.lora_B.weight"] @ own[f"{name}.lora_A.weight"]


def test_mixed_blocks_keep_their_function_and_put_the_best_components_first() -> None:
    server = aggregator()
    given_ = [(block(4, 20), 3.0), (block(2, 21), 1.0)]
    plain = average([own for own, _ in given_], [weight for _, weight in given_])
    server.aggregate({0: given_, 1: given_}, mixed={0})
    assert largest_difference(server.adapter[1], plain) == 0
    for name in SHAPES:
        whole = product(plain, name)
        assert torch.allclose(product(server.adapter[0], name), whole, atol=1e-5)
        optimum = torch.linalg.svdvals(whole)[2:].norm()
        kept = (whole - product(server.adapter[0], name, 2)).norm()
        assert kept == pytest.approx(float(optimum), rel=1e-4)
        assert (whole - product(plain, name, 2)).norm() > 1.05 * optimum


def test_the_callers_adapter_is_left_alone() -> None:
    own = {0: block(2, 0)}
    server = Aggregator(own)
    kept = {name: tensor.clone() for name, tensor in own[0].items()}
    server.aggregate({0: [(block(2, 1), 1.0), (block(2, 2), 1.0)]}, {0})
    assert all(torch.equal(own[0][name], kept[name]) for name in kept)
