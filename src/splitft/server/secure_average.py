"""The average with `secure_aggregation` in one process: the fixed-point sum of a network's clients."""

from __future__ import annotations

from collections.abc import Mapping

from splitft.job.settings import AverageSettings
from splitft.lora.blocks import Adapter, Layout
from splitft.lora.summed import added, mean_of, numbers_of, share_of
from splitft.wire.messages import AdapterUp
from splitft.wire.secagg.fixed_point import FixedPoint


def summed_average(
    settings: AverageSettings,
    layout: Layout,
    old: Adapter,
    ranks: Mapping[int, int],
    rows: Mapping[str, int],
    updates: Mapping[str, AdapterUp],
) -> Adapter:
    """Return the mean of clients' updates, bit by bit that of a sum whose terms were masked.

    Args:
        layout: Places of adapters in the model.
        old: The global adapter from which all trained.
        ranks: {block: effective rank}, the same of all clients.
        rows: Token rows of each client, its weight.
        updates: Adapters of all these clients, of all blocks.

    Raises DivergedError where a value has changed by more than the range of the sum.
    """
    points = FixedPoint(settings.secure_aggregation_range, len(rows))
    numbers = [
        numbers_of(
            updates[name], old, ranks, freeze_a=settings.freeze_a, points=points, share=share_of(rows, [name])
        )
        for name in rows
    ]
    blocks = updates[next(iter(rows))].blocks
    return mean_of(
        added(numbers),
        blocks,
        old,
        ranks,
        layout,
        freeze_a=settings.freeze_a,
        points=points,
        shares=share_of(rows, rows),
    )
