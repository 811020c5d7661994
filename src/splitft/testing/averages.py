"""The contracts of aggregation rules and of robust rules."""

from __future__ import annotations

from collections.abc import Callable

import torch

from splitft.lora.blocks import BlockAdapter
from splitft.lora.means import Mean
from splitft.lora.rules import AGGREGATIONS, ROBUST_RULES, RobustRule, find_mean, find_robust_rule
from splitft.testing.contract import contract, require

_NAME = "rule under test"


def check_aggregation(function: Mean) -> None:
    """Check an aggregation rule as it is registered: names, shapes and values, for equal and unequal ranks.

    The mean of equal adapters must be that adapter.
    """
    AGGREGATIONS.register(_NAME, function)
    mean = find_mean(_NAME)
    _check(lambda blocks: mean(blocks, [1.0 + number for number in range(len(blocks))]))


def check_robust_rule(function: RobustRule) -> None:
    """Check a robust rule as it is registered, as `check_aggregation` does, with one broken client."""
    ROBUST_RULES.register(_NAME, function)
    rule = find_robust_rule(_NAME)
    _check(lambda blocks: rule(blocks, 1))


def _check(merge: Callable[[list[BlockAdapter]], BlockAdapter]) -> None:
    for ranks in ((4, 4, 4), (4, 2, 4), (3,)):
        blocks = [_adapter(rank, number) for number, rank in enumerate(ranks)]
        kept = [{name: tensor.clone() for name, tensor in block.items()} for block in blocks]
        with contract():
            merge(blocks)
            equal = merge([_adapter(4, 0) for _ in ranks])
        for block, before in zip(blocks, kept, strict=True):
            untouched = all(torch.equal(block[name], before[name]) for name in before)
            require(untouched, "the rule wrote into the adapters that it was given")
        for name, tensor in _adapter(4, 0).items():
            require(
                torch.allclose(equal[name], tensor, atol=1e-6), f"equal adapters came out changed: {name}"
            )


def _adapter(rank: int, seed: int) -> BlockAdapter:
    generator = torch.Generator().manual_seed(seed)
    return {
        "self_attn.q_proj.lora_A.weight": torch.randn(rank, 8, generator=generator),
        "self_attn.q_proj.lora_B.weight": torch.randn(8, rank, generator=generator),
    }
