"""One round's average of every block, from what clients and trunks trained: pure functions.

They run inside the server, or in an aggregator of its own that then alone sees the clients' updates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median_low

from splitft.errors import DivergedError
from splitft.job.settings import AverageSettings, TrainingSettings
from splitft.lora.blocks import Adapter, Layout, device_of, resize, trained_specs, unflatten
from splitft.lora.means import Mean
from splitft.lora.ranks import HeldBlocks
from splitft.lora.reach import Reach
from splitft.lora.robust import Contribution, lengths_of, norm_clip, typical_change, without_outliers
from splitft.lora.rules import find_mean, find_robust_rule
from splitft.server.seam import SHARED
from splitft.wire.messages import AdapterUp, all_finite

Contributions = Mapping[int, Mapping[str, Contribution]]  # {block: {holder: (adapter, weight)}}


class UpdatesError(ValueError):
    """The updates of some clients cannot be averaged. reasons: why, of each of these clients."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{client}: {reason}" for client, reason in reasons.items()))
        self.reasons = dict(reasons)


def check_sizes(
    settings: TrainingSettings, layout: Layout, held: HeldBlocks, blocks: Sequence[int], sizes: Sequence[int]
) -> None:
    """Raise ValueError where an update is not what a client trains.

    Args:
        layout: Places of adapters in the model.
        held: The division of the client's model.
        blocks, sizes: Blocks of the update, and the number of values of each.
    """
    wanted = held.on_client(layout)
    if tuple(blocks) != wanted or len(sizes) != len(wanted):
        raise ValueError(f"blocks: {list(blocks)[:9]} where {list(wanted)} are held")
    ranks = held.ranks(settings)
    for block, size in zip(wanted, sizes, strict=True):
        specs = trained_specs(layout[block], settings.freeze_a)
        right = sum(math.prod(spec.at_rank(ranks[block])) for spec in specs)
        if size != right:
            raise ValueError(f"values: {size} of block {block}, which has {right}")


def check_reach(
    settings: TrainingSettings,
    layout: Layout,
    old: Adapter,
    held: HeldBlocks,
    update: AdapterUp,
    reach: Reach,
) -> None:
    """Raise ValueError where an update is further from the global adapter `old` than steps can take it."""
    ranks = held.ranks(settings)
    start = {block: resize(old[block], ranks[block]) for block in update.blocks}
    if where := reach.beyond(start, _trained(settings, layout, old, update)):
        raise ValueError(
            f"values: beyond what {settings.local_steps} steps of {settings.optim} with this job's learning "
            f"rate can change ({where})"
        )


def check_updates(
    settings: TrainingSettings,
    layout: Layout,
    old: Adapter,
    held: Mapping[str, HeldBlocks],
    updates: Mapping[str, AdapterUp],
    round_: int,
    reach: Reach | None,
) -> None:
    """Raise UpdatesError, which names all of them, where updates are none that clients make in a round.

    reach: Of the round's steps. None: the optimizer has no bound.
    """
    reasons = {}
    for client, update in updates.items():
        sizes = [values.numel() for values in update.values]
        try:
            if update.round != round_:
                raise ValueError(f"an update of round {update.round} in round {round_}")
            check_sizes(settings, layout, held[client], update.blocks, sizes)
            if reach is not None:
                check_reach(settings, layout, old, held[client], update, reach)
        except ValueError as error:
            reasons[client] = str(error)
    if reasons:
        raise UpdatesError(reasons)


def gathered(
    settings: TrainingSettings,
    layout: Layout,
    old: Adapter,
    held: Mapping[str, HeldBlocks],
    rows: Mapping[str, int],
    updates: Mapping[str, AdapterUp],
    trunks: Contributions,
) -> dict[int, dict[str, Contribution]]:
    """Return all contributions of a round to each block; for the parameters see `average_round`."""
    given = {block: dict(holders) for block, holders in trunks.items()}
    for client, update in updates.items():
        ranks = held[client].ranks(settings)
        for block, tensors in _trained(settings, layout, old, update).items():
            own = resize(old[block], ranks[block]) | tensors
            given.setdefault(block, {})[client] = own, float(rows[client])
    return given


def _trained(settings: TrainingSettings, layout: Layout, old: Adapter, update: AdapterUp) -> Adapter:
    """Return the trained tensors of an update, on the device of the global adapter `old`."""
    device = device_of(old)
    return {
        block: unflatten(values.to(device), trained_specs(layout[block], settings.freeze_a))
        for block, values in zip(update.blocks, update.values, strict=True)
    }


def average_round(
    settings: TrainingSettings,
    layout: Layout,
    old: Adapter,
    held: Mapping[str, HeldBlocks],
    rows: Mapping[str, int],
    updates: Mapping[str, AdapterUp],
    trunks: Contributions,
    mean: Mean | None = None,
) -> Adapter:
    """Return the average of every block that clients or trunks trained from the global adapter `old`.

    Sums go in the clients' order, whether a client or its trunk holds the block, and a shared trunk comes
    last: where the cuts are is then not seen in the last bit, either.

    Args:
        layout: Places of adapters in the model.
        held: The division of each client's model.
        rows: Token rows that the server saw of each client, its weight, in the clients' order.
        updates: Adapters of clients, which have been checked (`check_updates`, or the server's gate).
        trunks: Adapters of trunks.
        mean: The average of a block. None: as the settings say.
    """
    given = gathered(settings, layout, old, held, rows, updates, trunks)
    return average_blocks(settings, old, given, [*rows, SHARED], mean)


def by_length(
    settings: TrainingSettings,
    layout: Layout,
    old: Adapter,
    held: Mapping[str, HeldBlocks],
    updates: Mapping[str, AdapterUp],
    trunks: Contributions,
) -> dict[str, float]:
    """Return the clients of a round, longest updates first, and how long each is for its block's median.

    A client's length is that of its block that is longest by the lower median of the block's contributions;
    where an aggregator has the updates, that of its trunk.
    """
    given = gathered(settings, layout, old, held, dict.fromkeys(held, 1), updates, trunks)
    longest = dict.fromkeys(held, 0.0)
    for block, holders in given.items():
        lengths = dict(zip(holders, lengths_of(old[block], list(holders.values()))[1], strict=True))
        usual = median_low(lengths.values())
        for name, length in lengths.items():
            if name in longest:
                longest[name] = max(longest[name], length / usual if usual else math.inf if length else 0.0)
    return dict(sorted(longest.items(), key=lambda one: -one[1]))


def average_blocks(
    settings: AverageSettings,
    old: Adapter,
    contributions: Contributions,
    order: Sequence[str],
    mean: Mean | None = None,
) -> Adapter:
    """Return the average of all contributions to each block.

    Args:
        order: Holders in the order of all sums.
        mean: The average of a block. None: as the settings say.
    """
    mean = mean or find_mean(settings.aggregation)
    robust = None
    if settings.robust_aggregation not in ("none", "norm_clip"):
        robust = find_robust_rule(settings.robust_aggregation)
    averaged = {}
    typical = None if settings.robust_aggregation == "none" else typical_change(old, contributions)
    for block, held in sorted(contributions.items()):
        given = [held[holder] for holder in order if holder in held]
        if robust:
            kept = [adapter for adapter, _ in without_outliers(old[block], given, typical)]
            averaged[block] = robust(kept, settings.byzantine_clients)
            continue
        if settings.robust_aggregation == "norm_clip":
            given = norm_clip(old[block], given, typical)
        averaged[block] = mean([adapter for adapter, _ in given], [weight for _, weight in given])
    return averaged


def check_adapter(what: str, adapter: Adapter) -> None:
    """Raise DivergedError where an adapter holds values that are not finite. what: names it."""
    for block, tensors in adapter.items():
        if not all_finite(tensors.values()):
            raise DivergedError.of(f"{what} is not finite (block {block})")
