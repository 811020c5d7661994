"""The record of a partition, beside the indices themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PartitionReport:
    """The rows of each client by class.

    Attributes:
        method: Name of the method, as in the job file.
        clients: Name of each client.
        classes: Name of each class of rows that was dealt (length classes, labels, or one class "all").
        counts: Rows by (client, class); with samples_per_client a row that was drawn twice counts twice.
        edges: Largest token length of every length class but the last; empty for other methods.
    """

    method: str
    clients: tuple[str, ...]
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    edges: tuple[int, ...] = ()


def default_names(num_clients: int) -> tuple[str, ...]:
    """client-0, client-1, ..."""
    return tuple(f"client-{i}" for i in range(num_clients))


def as_counts(counts: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """A (client, class) matrix as the nested tuples of a report."""
    return tuple(tuple(int(n) for n in row) for row in counts)
