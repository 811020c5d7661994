"""The mean of clients' adapters by way of a fixed-point sum, of which no term need be known by itself.

A client adds the change of its trained values since the hand-out, times its weight, as numbers of a ring
(`wire/secagg/fixed_point.py`). Whoever has the sum makes the mean of it: one process, or a server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from splitft.errors import DivergedError
from splitft.lora.blocks import (
    Adapter,
    BlockAdapter,
    Layout,
    device_of,
    flatten,
    resize,
    trained_specs,
    trained_tensors,
    unflatten,
)
from splitft.wire.messages import AdapterUp
from splitft.wire.secagg.fixed_point import FixedPoint, RangeError


def numbers_of(
    update: AdapterUp,
    old: Adapter,
    ranks: Mapping[int, int],
    *,
    freeze_a: bool,
    points: FixedPoint,
    share: float,
) -> list[Tensor]:
    """Return what a client adds to the sum, one flat int32 tensor a block.

    Args:
        update: What it trained.
        old: The adapter that it was handed out.
        ranks: {block: effective rank}.
        freeze_a: B alone is trained.
        points: The numbers of the sum.
        share: The client's weight as a share of the largest.

    Raises DivergedError where a value has changed by more than the range of the sum.
    """
    numbers = []
    for block, values in zip(update.blocks, update.values, strict=True):
        start = flatten(trained_tensors(resize(old[block], ranks[block]), freeze_a)).cpu()
        try:
            numbers.append(points.encode(values.detach().cpu().double() - start.double(), share))
        except RangeError as error:
            raise DivergedError(
                f"a value of the adapter changed by {error.largest:.3g} in round {update.round} (block "
                f"{block}), and a sum takes changes of up to {points.most:g}: lower learning_rate, or raise "
                "secure_aggregation_range"
            ) from None
    return numbers


def mean_of(
    total: Sequence[Tensor],
    blocks: Sequence[int],
    old: Adapter,
    ranks: Mapping[int, int],
    layout: Layout,
    *,
    freeze_a: bool,
    points: FixedPoint,
    shares: float,
) -> Adapter:
    """Return the mean of what clients trained, by the sum of their numbers, on the device of `old`.

    Args:
        total: The sum, one flat int32 tensor a block.
        blocks: These blocks.
        old, ranks, freeze_a, points: As in `numbers_of`.
        layout: Places of adapters in the model.
        shares: The sum of the shares of the clients in the sum.
    """
    mean: Adapter = {}
    for block, numbers in zip(blocks, total, strict=True):
        start: BlockAdapter = resize(old[block], ranks[block])
        before = flatten(trained_tensors(start, freeze_a)).cpu().double()
        values = (before + points.decode(numbers, shares)).float().to(device_of(old))
        mean[block] = start | unflatten(values, trained_specs(layout[block], freeze_a))
    return mean


def share_of(weights: Mapping[str, int], names: Iterable[str]) -> float:
    """Return the weight of some clients together as a share of the largest of all."""
    return sum(weights[name] for name in names) / max(weights.values())


def added(numbers: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the sums of several clients' numbers, int32, block by block, modulo 2^32."""
    total = [torch.zeros_like(block) for block in numbers[0]]
    for own in numbers:
        for block, more in zip(total, own, strict=True):
            block.numpy().view(np.uint32)[:] += more.numpy().view(np.uint32)
    return total
