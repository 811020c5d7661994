"""Partitions by name, and the contract of a user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from splitft.common.registry import Registry
from splitft.common.text import error_line
from splitft.data.rows import Indices
from splitft.errors import JobError
from splitft.job.rules import BUILT_IN
from splitft.job.sections import PartitionConfig


@dataclass(frozen=True)
class TrainingRows:
    """The training rows as a partition sees them.

    lengths: tokens of each row, (rows,) int64.
    labels: values of `partition.column`, one a row; empty where the job names no column.
    """

    lengths: Indices
    labels: tuple[str, ...] = ()


Partition = Callable[[TrainingRows, int, PartitionConfig, np.random.Generator], Sequence[Any]]

PARTITIONS: Registry[Partition] = Registry("partition", "register_partition", {}, BUILT_IN["partition"])


@overload
def register_partition(name: str, function: Partition) -> Partition: ...
@overload
def register_partition(name: str, function: None = None) -> Callable[[Partition], Partition]: ...
def register_partition(
    name: str, function: Partition | None = None
) -> Partition | Callable[[Partition], Partition]:
    """Register a partition of your own as `partition.method: NAME`; without a function, a decorator.

    function: takes the TrainingRows, the number of clients, the job's PartitionConfig and a NumPy generator
        seeded by the job, and returns for each client the indices of its rows. A row goes to one client at
        most; a row of no client is not trained on.

    Raises JobError for a built-in's name, an empty one, or what cannot be called.
    """
    return PARTITIONS.register(name, function)


def deal_by(name: str, rows: TrainingRows, clients: int, config: PartitionConfig, rng: Any) -> list[Indices]:
    """Return the sorted rows of each client by a registered partition.

    Raises JobError that names the partition, what was expected and what came.
    """
    count = len(rows.lengths)
    try:
        given = [np.asarray(own) for own in PARTITIONS.find(name)(rows, clients, config, rng)]
    except JobError:
        raise
    except Exception as error:  # a partition is any code
        raise JobError(f"partition {name} failed: {error_line(error)}") from error
    if len(given) != clients:
        raise JobError(
            f"partition {name} must return the rows of {clients} clients, it returned {len(given)}"
        )
    for number, own in enumerate(given):
        who = f"partition {name}, client-{number}"
        if own.ndim != 1 or (own.size and own.dtype.kind not in "iu"):
            raise JobError(f"{who}: must be row indices, (rows,) integers, not {own.dtype} {own.shape}")
        if own.size and not 0 <= own.min() <= own.max() < count:
            raise JobError(f"{who}: rows must lie between 0 and {count - 1}, not {own.min()} to {own.max()}")
        if len(own) < config.min_rows:
            raise JobError(f"{who}: gets {len(own)} rows, fewer than partition.min_rows ({config.min_rows})")
    together = np.concatenate(given)
    if len(np.unique(together)) < len(together):
        twice = int(np.bincount(together).argmax())
        raise JobError(f"partition {name} gives row {twice} to several clients, or twice")
    return [np.sort(own).astype(np.int64) for own in given]
