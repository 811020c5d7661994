"""Averages of adapters, block by block; pure functions.

Adapters are global, per block: whoever holds a block trains its adapter, and clients with different cuts
aggregate exactly. Weights are the tokens that the server itself counted. (ours; the paper is silent)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from splitft.adapters import BlockAdapter, rank_of, resize


def average(blocks: Sequence[BlockAdapter], weights: Sequence[float]) -> BlockAdapter:
    """Return the weighted mean of one block's adapters; smaller ranks are padded with zeros.

    Sums in float64 on the CPU (some accelerators have no float64), in the order given. Raises ValueError
    without adapters, or where weights are negative, not finite or all zero.
    """
    total = float(sum(weights))
    usable = len(blocks) == len(weights) > 0 and math.isfinite(total) and total > 0
    if not usable or min(weights) < 0:
        raise ValueError("an average needs adapters and non-negative weights that do not all vanish")
    rank = max(rank_of(block) for block in blocks)
    padded = [resize(block, rank) for block in blocks]
    result: BlockAdapter = {}
    for name, first in padded[0].items():
        mean = torch.zeros(first.shape, dtype=torch.float64, device="cpu")
        for block, weight in zip(padded, weights, strict=True):
            mean += block[name].detach().cpu().double() * (weight / total)
        result[name] = mean.to(first.dtype).to(first.device)
    return result
