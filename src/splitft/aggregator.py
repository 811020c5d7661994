"""The global adapter: hands out what clients lack, and takes in the average of what was trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from splitft.adapters import Adapter, BlockAdapter, flatten
from splitft.aggregate import average
from splitft.lowrank import canonical_block
from splitft.messages import AdapterDown

Contribution = tuple[BlockAdapter, float]  # an adapter of one block, and its weight in tokens


class Aggregator:
    """Holds the global adapter of every block and its version (the paper's Local FedAvg Server)."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = dict(adapter)
        self.version = dict.fromkeys(adapter, 0)
        self._rebased = dict.fromkeys(adapter, -1)  # version in which a block last changed its basis
        self._sent: dict[str, dict[int, int]] = defaultdict(dict)

    def hand_out(self, round_: int, cuts: Mapping[str, int], tail_start: int) -> dict[str, AdapterDown]:
        """Return for each client the blocks below its cut and from `tail_start` on that it lacks.

        A block travels at the rank that it has globally: what is evaluated is the global adapter.
        """
        down: dict[str, AdapterDown] = {}
        for client, cut in cuts.items():
            sent = self._sent[client]
            held = [block for block in self.adapter if block < cut or block >= tail_start]
            lacking = [block for block in held if sent.get(block) != self.version[block]]
            rebased = [block for block in lacking if self.rebased_since(block, sent.get(block, -1))]
            values = tuple(flatten(self.adapter[block]) for block in lacking)
            down[client] = AdapterDown(round_, cut, tuple(lacking), tuple(rebased), values)
            self._sent[client] = {block: self.version[block] for block in held}
        return down

    def rebased_since(self, block: int, version: int) -> bool:
        """Whether the block's basis changed after that version."""
        return self._rebased[block] > version

    def aggregate(self, contributions: Mapping[int, Sequence[Contribution]], mixed: set[int]) -> None:
        """Replace each block by the weighted mean of its contributions.

        mixed: blocks that some clients hold at a lower rank than others; their mean is brought to a form
        whose leading components are the best approximation of each rank, for all to start from.
        """
        for block, given in contributions.items():
            mean = average([adapter for adapter, _ in given], [weight for _, weight in given])
            self.version[block] += 1
            if block in mixed:
                mean = canonical_block(mean)
                self._rebased[block] = self.version[block]
            self.adapter[block] = mean
