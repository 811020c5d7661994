"""The mean by way of a sum: that of the adapters but for rounding, with A frozen or not, in any order."""

from __future__ import annotations

import math

import pytest
import torch

from splitft.errors import DivergedError
from splitft.lora.blocks import TensorSpec, flatten, initial_adapter, resize, trained_tensors
from splitft.lora.summed import added, mean_of, numbers_of, share_of
from splitft.wire.messages import AdapterUp
from splitft.wire.secagg.fixed_point import FixedPoint

SPECS = TensorSpec("q.lora_A.weight", (4, 30)), TensorSpec("q.lora_B.weight", (20, 4))
LAYOUT = {0: SPECS, 2: SPECS}
OLD = initial_adapter(LAYOUT, 4, seed=1)
RANKS = {0: 3, 2: 4}
WEIGHTS = {"anna": 700, "bert": 1, "cleo": 250}


def update_of(seed: int, *, freeze_a: bool, far: float = 0.3) -> AdapterUp:
    generator = torch.Generator().manual_seed(seed)
    values = []
    for block in LAYOUT:
        flat = flatten(trained_tensors(resize(OLD[block], RANKS[block]), freeze_a))
        values.append(flat + far * (2 * torch.rand(len(flat), generator=generator) - 1))
    return AdapterUp(5, tuple(LAYOUT), tuple(values))


@pytest.mark.parametrize("freeze_a", [False, True])
def test_the_mean_is_that_of_the_adapters(freeze_a: bool) -> None:
    points = FixedPoint(2.0, len(WEIGHTS))
    updates = {name: update_of(seed, freeze_a=freeze_a) for seed, name in enumerate(WEIGHTS)}
    numbers = {
        name: numbers_of(
            update, OLD, RANKS, freeze_a=freeze_a, points=points, share=share_of(WEIGHTS, [name])
        )
        for name, update in updates.items()
    }
    for some in (["anna", "bert", "cleo"], ["cleo", "bert", "anna"], ["cleo", "bert"]):
        shares = share_of(WEIGHTS, some)
        total = added([numbers[name] for name in some])
        mean = mean_of(total, (0, 2), OLD, RANKS, LAYOUT, freeze_a=freeze_a, points=points, shares=shares)
        for place, block in enumerate(LAYOUT):
            wanted = sum(updates[name].values[place].double() * WEIGHTS[name] for name in some)
            wanted = wanted / sum(WEIGHTS[name] for name in some)
            got = flatten(trained_tensors(mean[block], freeze_a)).double()
            assert float((got - wanted).abs().max()) <= points.error(shares) + 1e-7
            if freeze_a:
                frozen = resize(OLD[block], RANKS[block])["q.lora_A.weight"]
                assert torch.equal(mean[block]["q.lora_A.weight"], frozen)
    one, other = added(list(numbers.values())), added(list(numbers.values())[::-1])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize("far", [3.0, math.nan])
def test_a_change_beyond_the_range_is_told(far: float) -> None:
    update = update_of(1, freeze_a=False, far=far)
    with pytest.raises(DivergedError, match="raise secure_aggregation_range"):
        numbers_of(update, OLD, RANKS, freeze_a=False, points=FixedPoint(2.0, 3), share=1.0)
