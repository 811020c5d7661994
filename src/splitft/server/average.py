"""One round's average of every block, from what clients and trunks trained: pure functions. (ours)

They run inside the server, or in an aggregator of its own that then alone sees the clients' updates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from splitft.job import Job
from splitft.lora.blocks import Adapter, BlockAdapter, Layout, resize, trained_specs, unflatten
from splitft.lora.means import MEANS, Mean
from splitft.lora.ranks import job_ranks
from splitft.lora.robust import ROBUST, Contribution, norm_clip, without_outliers
from splitft.wire.messages import AdapterUp

SHARED = ""  # key of the one trunk that all clients train with `server_adapter: shared`
Contributions = Mapping[int, Mapping[str, Contribution]]  # {block: {holder: (adapter, weight)}}


def held_blocks(layout: Layout, cut: int, tail_start: int) -> tuple[int, ...]:
    """Return the blocks with an adapter that a client with this cut holds."""
    return tuple(block for block in layout if block < cut or block >= tail_start)


def check_sizes(
    job: Job, layout: Layout, num_blocks: int, cut: int, blocks: Sequence[int], sizes: Sequence[int]
) -> None:
    """Raise ValueError where blocks with so many values are not what a client with this cut trains."""
    held = held_blocks(layout, cut, num_blocks - job.tail_blocks)
    if tuple(blocks) != held or len(sizes) != len(held):
        raise ValueError(f"blocks: {list(blocks)[:9]} where {list(held)} are held")
    ranks = job_ranks(job, num_blocks, cut)
    for block, size in zip(held, sizes, strict=True):
        specs = trained_specs(layout[block], job.freeze_a)
        wanted = sum(math.prod(spec.at_rank(ranks[block])) for spec in specs)
        if size != wanted:
            raise ValueError(f"values: {size} of block {block}, which has {wanted}")


def client_contributions(
    job: Job, layout: Layout, num_blocks: int, old: Adapter, update: AdapterUp, *, cut: int, rows: int
) -> dict[int, Contribution]:
    """Return {block: (adapter, weight)} of what a client trained from the global adapter `old`.

    rows: token rows that the server saw of it, its weight.
    """
    ranks, device = job_ranks(job, num_blocks, cut), _device(old)
    given = {}
    for block, values in zip(update.blocks, update.values, strict=True):
        specs = trained_specs(layout[block], job.freeze_a)
        trained = unflatten(values.to(device), specs)
        given[block] = resize(old[block], ranks[block]) | trained, float(rows)
    return given


def average_blocks(
    job: Job, old: Adapter, contributions: Contributions, order: Sequence[str], mean: Mean | None = None
) -> Adapter:
    """Return what stands for all contributions to each block, by the job's aggregation and robustness.

    order: holders in the order of all sums, the clients' and then the shared trunk; where the cuts are is
    then not seen in the last bit, either.
    """
    averaged = {}
    for block, held in sorted(contributions.items()):
        given = [held[holder] for holder in order if holder in held]
        averaged[block] = _middle(job, old[block], given, mean or MEANS[job.aggregation])
    return averaged


def _middle(job: Job, old: BlockAdapter, given: Sequence[Contribution], mean: Mean) -> BlockAdapter:
    if job.robust_aggregation in ROBUST:
        robust = ROBUST[job.robust_aggregation]
        kept = [adapter for adapter, _ in without_outliers(old, given)]
        return robust(kept, job.byzantine_clients)
    if job.robust_aggregation == "norm_clip":
        given = norm_clip(old, given)
    return mean([adapter for adapter, _ in given], [weight for _, weight in given])


def _device(adapter: Adapter) -> torch.device:
    return next(
        (tensor.device for block in adapter.values() for tensor in block.values()), torch.device("cpu")
    )
