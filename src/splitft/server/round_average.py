"""What one round has trained, and its average over some of its clients: here, or by an aggregator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import Adapter, Layout, adapter_of
from splitft.lora.means import Mean
from splitft.lora.ranks import HeldBlocks
from splitft.lora.robust import Contribution
from splitft.server.average import Contributions, average_round, by_length
from splitft.server.seam import SHARED, TrunkUpdate
from splitft.server.secure_average import summed_average
from splitft.wire.messages import AdapterUp

# Averages elsewhere what clients hand in there (`splitft aggregator`): from the round, the global adapter,
# each client's cut and rows, and what trunks trained. Raises UpdatesError where updates cannot be averaged.
RemoteAverage = Callable[[int, Adapter, Mapping[str, tuple[int, int]], Contributions], Adapter]


@dataclass(frozen=True)
class RoundAverage:
    """The contributions of a round.

    Args:
        layout: Places of adapters in the model.
        old: The global adapter from which all trained.
        held: The division of each client's model.
        rows: Token rows that the server saw of each client: its weight.
        updates: Adapters of clients; none where an aggregator has them.
        trunks: Adapters of trunks.
        mean: The average of a block. None: as the settings say.
        elsewhere: Averages for the server. None: they are averaged here.
    """

    settings: TrainingSettings
    layout: Layout
    round: int
    old: Adapter
    held: Mapping[str, HeldBlocks]
    rows: Mapping[str, int]
    updates: Mapping[str, AdapterUp]
    trunks: Contributions
    mean: Mean | None
    elsewhere: RemoteAverage | None

    def without(self, clients: Collection[str]) -> Adapter:
        """Return the average over all other clients; of none of them it is empty.

        Raises UpdatesError where updates cannot be averaged.
        """
        rows = {client: number for client, number in self.rows.items() if client not in clients}
        if not rows:
            return {}
        given = {
            block: {key: one for key, one in own.items() if key in rows or key == SHARED}
            for block, own in self.trunks.items()
        }
        if self.elsewhere is not None:
            asked = {client: (self.held[client].cut, number) for client, number in rows.items()}
            return self.elsewhere(self.round, self.old, asked, given)
        own = {client: update for client, update in self.updates.items() if client in rows}
        if self.settings.secure_aggregation and self.mean is None:
            ranks = self.held[next(iter(rows))].ranks(self.settings)
            return summed_average(self.settings, self.layout, self.old, ranks, rows, own)
        return average_round(self.settings, self.layout, self.old, self.held, rows, own, given, self.mean)

    def by_length(self, without: Collection[str]) -> dict[str, float]:
        """Return all other clients, longest updates first: see `average.by_length`."""
        held = {client: one for client, one in self.held.items() if client not in without}
        updates = {client: update for client, update in self.updates.items() if client in held}
        return by_length(self.settings, self.layout, self.old, held, updates, self.trunks)


def trunk_contributions(
    trained: Mapping[str, TrunkUpdate],
    held: Mapping[str, HeldBlocks],
    rows: Mapping[str, int],
    layout: Layout,
) -> Contributions:
    """Return what trunks trained, each block weighed by the rows of the clients that train it there."""
    trunks: dict[int, dict[str, Contribution]] = defaultdict(dict)
    for key, trunk in trained.items():
        for block, adapter in adapter_of(trunk.blocks, trunk.values, layout).items():
            if weight := sum(rows[client] for client in trunk.clients if block in held[client].trunk):
                trunks[block][key] = adapter, float(weight)
    return trunks


def rows_seen(
    trained: Mapping[str, TrunkUpdate], clients: Iterable[str], place: Mapping[str, int]
) -> dict[str, int]:
    """Return the token rows that the server saw of each client that trained, in the order of sums.

    clients: all that were handed anything out, as they first came. place: of each in the order of sums.
    """
    seen = {c: n for trunk in trained.values() for c, n in zip(trunk.clients, trunk.rows, strict=True)}
    there = [client for client in clients if client in seen]
    return {client: seen[client] for client in sorted(there, key=lambda c: place.get(c, len(place)))}
