"""Means of adapters, block by block; pure functions.

Adapters are global, per block: all holders of a block train its adapter, and clients with different cuts
aggregate exactly. Weights are the tokens that the server itself counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from splitft.lora.basis import canonical
from splitft.lora.blocks import (
    BlockAdapter,
    from_matrices,
    matrices,
    merge_components,
    pairs,
    rank_of,
    resize,
)

Mean = Callable[[Sequence[BlockAdapter], Sequence[float]], BlockAdapter]


def average(blocks: Sequence[BlockAdapter], weights: Sequence[float]) -> BlockAdapter:
    """Return the weighted mean of A and of B of one block's adapters (FedAvg); smaller ranks are zero-padded.

    Sums in float64 on the CPU (some accelerators have no float64), in the order given. Raises ValueError
    without adapters, or where weights are negative, not finite or all zero.
    """
    shares = _shares(blocks, weights)
    rank = max(rank_of(block) for block in blocks)
    padded = [resize(block, rank) for block in blocks]
    result: BlockAdapter = {}
    for name, first in padded[0].items():
        mean = torch.zeros(first.shape, dtype=torch.float64, device="cpu")
        for block, share in zip(padded, shares, strict=True):
            mean += block[name].detach().cpu().double() * share
        result[name] = mean.to(first.dtype).to(first.device)
    return result


def by_rank(blocks: Sequence[BlockAdapter], weights: Sequence[float]) -> BlockAdapter:
    """Return the weighted mean of each component over its holders.

    As blocks are averaged over those who train them, so are the components of a block: one that only some
    hold keeps its size. With equal ranks this is `average`, bit by bit. Raises ValueError as `average`.
    """
    _shares(blocks, weights)

    def mean(holders: Sequence[int], slices: Sequence[BlockAdapter]) -> BlockAdapter:
        own = [weights[holder] for holder in holders]
        return average(slices, own if sum(own) > 0 else [1.0] * len(own))

    return merge_components(blocks, mean)


def exact(blocks: Sequence[BlockAdapter], weights: Sequence[float]) -> BlockAdapter:
    """Return the best approximation, at the highest of their ranks, of the weighted mean of the products B·A.

    The mean of products has up to the sum of all ranks; what is above the highest is cut off (Eckart-Young).
    Of all factors with that product, those nearest to the mean A are taken. Raises ValueError as `average`.
    """
    shares, like = _shares(blocks, weights), blocks[0]
    blocks = [matrices(block) for block in blocks]
    result = average(blocks, weights)
    rank = rank_of(result)
    for name_a, name_b in pairs(result):
        every_a = torch.cat([block[name_a].detach().cpu().double() for block in blocks])
        weighted = [
            block[name_b].detach().cpu().double() * share for block, share in zip(blocks, shares, strict=True)
        ]
        a, b = canonical(every_a, torch.cat(weighted, dim=1))
        mean_a, mean_b = result[name_a], result[name_b]
        if not (a.norm() + b.norm() + mean_a.norm()).isfinite():  # a run that diverged
            continue
        # Rotated so that A comes as close as it can to the mean A (Procrustes): the product stays, and
        # optimizer moments, which belong to single components, keep their meaning.
        u, _, vh = torch.linalg.svd(mean_a.detach().cpu().double() @ a[:rank].T)
        rotation = u @ vh
        a, b = rotation @ a[:rank], b[:, :rank] @ rotation.T
        result[name_a], result[name_b] = a.to(mean_a), b.to(mean_b)
    return from_matrices(result, like)


def freeze_a(blocks: Sequence[BlockAdapter], weights: Sequence[float]) -> BlockAdapter:
    """Return the common A and the weighted mean of B (FFA-LoRA): B·A is then the mean of the products.

    Raises ValueError as `average`, and where the adapters do not share their A.
    """
    widest = max(blocks, key=rank_of) if blocks else {}
    result = average(blocks, weights)
    for name, _ in pairs(widest):
        for block in blocks:
            shared = resize({name: widest[name]}, rank_of(block))[name]
            if not torch.equal(block[name], shared):
                raise ValueError(f"{name} is frozen, but the adapters to be averaged differ in it")
        result[name] = widest[name].detach().clone()
    return result


def _shares(blocks: Sequence[BlockAdapter], weights: Sequence[float]) -> list[float]:
    total = float(sum(weights))
    usable = len(blocks) == len(weights) > 0 and math.isfinite(total) and total > 0
    if not usable or min(weights) < 0:
        raise ValueError("an average needs adapters and non-negative weights that do not all vanish")
    return [weight / total for weight in weights]
