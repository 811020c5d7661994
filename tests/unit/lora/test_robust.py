"""Robust averages: honest rounds are left alone, and a few clients cannot take a block over."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitft.lora.blocks import BlockAdapter, flatten, resize
from splitft.lora.means import by_rank
from splitft.lora.robust import (
    OUTLIER,
    OUTLIER_OF_TWO,
    coordinate_median,
    krum,
    norm_clip,
    trimmed_mean,
    typical_change,
    without_outliers,
)
from splitft.server.average import average_blocks

A, B = "q.lora_A.weight", "q.lora_B.weight"


def block(seed: int, scale: float = 1.0, rank: int = 3) -> BlockAdapter:
    generator = torch.Generator().manual_seed(seed)
    return {
        A: scale * torch.randn(rank, 5, generator=generator),
        B: scale * torch.randn(4, rank, generator=generator),
    }


def moved(old: BlockAdapter, by: BlockAdapter, factor: float = 1.0) -> BlockAdapter:
    return {name: tensor + factor * by[name] for name, tensor in old.items()}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 999))
def test_an_honest_round_is_left_alone_bit_by_bit(clients: int, seed: int) -> None:
    old = block(0)
    given_ = [(moved(old, block(seed + i), 0.01), 1.0 + i) for i in range(clients)]
    clipped = norm_clip(old, given_)
    assert all(one[0] is other[0] and one[1] == other[1] for one, other in zip(clipped, given_, strict=True))


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 9), st.floats(OUTLIER + 1, 1e20), st.integers(0, 999))
def test_an_outlier_is_of_the_others_length_and_counts_less(clients: int, factor: float, seed: int) -> None:
    old = block(0)
    updates = [moved(old, block(seed), 0.01) for _ in range(clients - 1)]  # all of one norm
    attack = moved(old, block(seed), -0.01 * factor)
    *honest, clipped = norm_clip(old, [*((update, 1.0) for update in updates), (attack, 1.0)])
    assert all(one[0] is update for one, update in zip(honest, updates, strict=True))
    torch.testing.assert_close(
        flatten(clipped[0]) - flatten(old), -(flatten(updates[0]) - flatten(old)), rtol=1e-3, atol=1e-5
    )
    assert clipped[1] == pytest.approx(1.0 / factor, rel=1e-3)


def test_lower_ranks_are_compared_with_their_own_start() -> None:
    old = block(0, rank=4)
    low = resize(old, 2)
    given_ = [(moved(old, block(i, rank=4), 0.01), 1.0) for i in range(3)]
    given_.append((moved(low, block(9, rank=2), 0.01), 1.0))
    assert norm_clip(old, given_)[-1][0] is given_[-1][0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(0, 4), st.floats(2 * OUTLIER, 1e20), st.integers(0, 999))
def test_outliers_are_left_out_and_nobody_else(clients: int, liars: int, factor: float, seed: int) -> None:
    liars = min(liars, (clients - 1) // 2) if clients >= 3 else 0
    old = block(0)
    honest = [(moved(old, block(seed), 0.01), 1.0) for _ in range(clients - liars)]
    attacks = [(moved(old, block(seed + 1 + i), -0.01 * factor), 1.0) for i in range(liars)]
    kept = without_outliers(old, [*attacks, *honest])
    assert [one is other for (one, _), (other, _) in zip(kept, honest, strict=True)] == [True] * len(honest)


@pytest.mark.parametrize("narrow", [1, 2])
def test_an_honest_update_of_a_higher_rank_is_no_outlier(narrow: int) -> None:
    old = block(0, rank=32)
    step = {name: 0.01 * tensor.sign() for name, tensor in block(1, rank=32).items()}
    wide, low = moved(old, step), moved(resize(old, narrow), resize(step, narrow))
    few = moved(old, resize(resize(step, narrow), 32))  # all in the leading components
    for crowd, other in [(low, wide), (wide, low), (few, low), (low, few)]:
        given_ = [(crowd, 1.0), (crowd, 1.0), (other, 1.0)]
        assert [
            block is same for (block, _), (same, _) in zip(norm_clip(old, given_), given_, strict=True)
        ] == 3 * [True]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([coordinate_median, trimmed_mean]), st.integers(1, 3), st.integers(0, 999), st.data())
def test_a_minority_cannot_leave_the_range_of_the_others(  # type: ignore[no-untyped-def]
    kind, byzantine: int, seed: int, data: st.DataObject
) -> None:
    honest = [block(seed + i) for i in range(2 * byzantine + 1)]
    size = data.draw(st.sampled_from([1e3, 1e10, -1e30]))
    attackers = [block(seed - 1 - i, size) for i in range(byzantine)]
    order = data.draw(st.permutations([*honest, *attackers]))
    result = kind(order, byzantine)
    for name in result:
        values = torch.stack([each[name] for each in honest])
        assert (result[name] >= values.amin(0) - 1e-6).all()
        assert (result[name] <= values.amax(0) + 1e-6).all()


@pytest.mark.parametrize("kind", [coordinate_median, trimmed_mean, krum])
def test_equal_adapters_come_back_as_they_are(kind) -> None:  # type: ignore[no-untyped-def]
    same = [block(1) for _ in range(5)]
    result = kind(same, 1)
    assert all(torch.allclose(result[name], tensor) for name, tensor in same[0].items())


def test_krum_takes_one_of_the_crowd() -> None:
    crowd = [moved(block(0), block(i), 0.1) for i in range(1, 5)]
    far = [block(7, 50.0), block(8, 1e12)]
    assert any(krum([far[0], *crowd, far[1]], 2) is each for each in crowd)


@pytest.mark.parametrize("kind", [coordinate_median, trimmed_mean])
def test_components_that_few_hold_are_theirs(kind) -> None:  # type: ignore[no-untyped-def]
    wide = [block(i, rank=4) for i in range(2)]
    narrow = [block(i, rank=2) for i in range(2, 5)]
    result = kind([*narrow, *wide], 1)
    plain = by_rank(wide, [1.0, 1.0])
    torch.testing.assert_close(result[A][2:], plain[A][2:])
    torch.testing.assert_close(result[B][:, 2:], plain[B][:, 2:])


@settings(max_examples=50, deadline=None)
@given(st.floats(OUTLIER_OF_TWO + 1, 1e20), st.integers(0, 999))
def test_of_two_contributions_one_far_beyond_the_other_and_the_round_is_no_longer_than_usual(
    factor: float, seed: int
) -> None:
    """A block that a dishonest client and the trunk alone hold, beside one that all clients hold."""
    old = {0: block(0), 1: block(1)}
    honest = {b: moved(own, block(seed), 0.01) for b, own in old.items()}
    attack = {b: moved(own, block(seed), -0.01 * factor) for b, own in old.items()}
    contributions = {
        0: {"mallory": (attack[0], 1.0), "": (honest[0], 1.0)},
        1: {"mallory": (attack[1], 1.0), "anna": (honest[1], 1.0), "bert": (honest[1], 1.0)},
    }
    typical = typical_change(old, contributions)
    assert typical is not None
    clipped, kept = norm_clip(old[0], list(contributions[0].values()), typical)
    assert kept[0] is honest[0] and kept[1] == 1.0
    assert clipped[1] == pytest.approx(1.0 / factor, rel=1e-3)
    step, usual = (flatten(one) - flatten(old[0]) for one in (clipped[0], honest[0]))
    assert float(step.norm()) <= 1.01 * float(usual.norm()) + 1e-5
    assert without_outliers(old[0], list(contributions[0].values()), typical) == [(honest[0], 1.0)]
    averaged = average_blocks(
        SimpleNamespace(robust_aggregation="norm_clip", byzantine_clients=1),  # type: ignore[arg-type]
        old, contributions, ["mallory", "anna", "bert", ""], by_rank,
    )  # fmt: skip
    for index, adapter in averaged.items():
        assert float((flatten(adapter) - flatten(old[index])).norm()) <= 1.05 * float(usual.norm()) + 1e-5


@settings(max_examples=50, deadline=None)
@given(st.floats(0.11, 9.9), st.integers(0, 999))
def test_two_honest_contributions_are_left_alone_bit_by_bit(factor: float, seed: int) -> None:
    old = block(0)
    given_ = [(moved(old, block(seed), 0.01), 1.0), (moved(old, block(seed), 0.0099 * factor), 2.0)]
    typical = typical_change({0: old}, {0: dict(zip("ab", given_, strict=True))})
    clipped = norm_clip(old, given_, typical)
    assert all(one[0] is other[0] and one[1] == other[1] for one, other in zip(clipped, given_, strict=True))
    assert typical_change({0: old}, {0: dict(zip("abc", [*given_, given_[0]], strict=True))}) is None
