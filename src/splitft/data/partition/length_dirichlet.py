"""The paper's partition: rows are classed by token length, each class is dealt by Dirichlet(alpha)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from splitft.data.partition.deal import Dealt, PartitionReport
from splitft.data.partition.dirichlet import deal_classes
from splitft.data.partition.shares import Quota
from splitft.data.rows import Indices


def length_dirichlet(
    lengths: ArrayLike, num_clients: int, alpha: float, num_buckets: int, quota: Quota
) -> Dealt:
    """Deal quantile classes of token length to the clients, each by its own draw from Dirichlet(alpha·1).

    lengths: tokens of each row, (rows,). alpha: 0.1 is strongly skewed, large tends to equal shares.
    num_buckets: quantile classes; fewer come out where many rows have one and the same length. Raises
    DataError where there are too few rows for the minimum per client.

    Source: SplitFT (arXiv 2604.26388), length-based Dirichlet partition; not the rounding, nor the quota.
    """
    edges = length_edges(lengths, num_buckets)
    classes, names = length_classes(lengths, edges), length_names(edges)
    return deal_classes("length_dirichlet", classes, names, num_clients, alpha, quota, edges)


def length_report(dealt: Sequence[Indices], lengths: ArrayLike, num_buckets: int) -> PartitionReport:
    """Return the rows of each client by length class, of rows that any partition has dealt."""
    edges = length_edges(lengths, num_buckets)
    classes, names = length_classes(lengths, edges), length_names(edges)
    counts = [np.bincount(classes[own], minlength=len(names)).tolist() for own in dealt]
    clients = tuple(f"client-{number}" for number in range(len(dealt)))
    return PartitionReport(clients, tuple(names), tuple(map(tuple, counts)), edges)


def length_edges(lengths: ArrayLike, num_buckets: int) -> tuple[int, ...]:
    """Largest length of every quantile class but the last: increasing, at most `num_buckets - 1` of them."""
    values = np.asarray(lengths, dtype=np.int64)
    if len(values) == 0:
        return ()
    steps = np.arange(1, num_buckets) / num_buckets
    edges = np.unique(np.quantile(values, steps, method="inverted_cdf"))
    return tuple(int(edge) for edge in edges if edge < values.max())  # the last class is never empty


def length_classes(lengths: ArrayLike, edges: Sequence[int]) -> Indices:
    """Class of each length: the number of edges that it exceeds."""
    bounds = np.asarray(edges, dtype=np.int64)
    return np.searchsorted(bounds, np.asarray(lengths, dtype=np.int64), side="left").astype(np.int64)


def length_names(edges: Sequence[int]) -> tuple[str, ...]:
    """Readable names of the classes between `edges`, in tokens: '≤ 39', '40–72', '> 72'."""
    if not edges:
        return ("all",)
    inner = [f"{low + 1}–{high}" if high > low + 1 else f"{high}" for low, high in pairwise(edges)]
    return (f"≤ {edges[0]}", *inner, f"> {edges[-1]}")
