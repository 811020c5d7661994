"""Rows to clients by counts of each class: the hand-out, its report, equal shares, held-out rows alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from splitft.common.seeds import numpy_generator
from splitft.common.shares import largest_remainder
from splitft.data.partition.shares import Quota, check_enough, keep_minimum
from splitft.data.rows import Indices


@dataclass(frozen=True)
class PartitionReport:
    """The rows of each client by class."""

    clients: tuple[str, ...]
    classes: tuple[str, ...]  # names: length classes, labels, sites, or one class "all"
    counts: tuple[tuple[int, ...], ...]  # rows by (client, class); a row that was drawn twice counts twice
    edges: tuple[int, ...] = ()  # largest token length of every length class but the last, if there are any


Dealt = tuple[list[Indices], PartitionReport]  # sorted row indices of each client


def deal(
    classes: Indices,
    names: Sequence[str],
    counts: Indices,
    rng: np.random.Generator,
    *,
    clients: Sequence[str] = (),
    edges: tuple[int, ...] = (),
) -> Dealt:
    """Give every client as many rows of each class as `counts` (client, class) says, and report it.

    classes: of each row, (rows,). clients: their names; without them client-0, client-1, ...
    """
    clients = clients or [f"client-{i}" for i in range(len(counts))]
    table = tuple(tuple(row) for row in counts.tolist())
    report = PartitionReport(tuple(clients), tuple(names), table, edges)
    return hand_out(classes, counts, rng), report


def iid(num_rows: int, num_clients: int, quota: Quota) -> Dealt:
    """Shuffle the rows and deal equal shares; clients differ by at most one row. The one class is "all".

    Raises DataError where there are too few rows for the minimum per client.
    """
    check_enough(num_rows, num_clients, quota)
    if quota.samples_per_client is None:
        rows = largest_remainder(np.ones(num_clients), num_rows)
    else:
        rows = np.full(num_clients, quota.samples_per_client, dtype=np.int64)
    return deal(np.zeros(num_rows, np.int64), ["all"], rows[:, None], quota.generator("iid"))


def hand_out(classes: Indices, counts: Indices, rng: np.random.Generator) -> list[Indices]:
    """Give every client the rows that `counts` (client, class) promises it; sorted indices per client.

    Each class is shuffled once and cut into consecutive slices. Where more rows are asked than a class has,
    the slices go round it again: rows then repeat as evenly as possible, and a client gets a row twice only
    if it alone asks for more rows than the class has.
    """
    parts: list[list[Indices]] = [[] for _ in counts]
    for kind in range(counts.shape[1]):
        members = rng.permutation(np.flatnonzero(classes == kind)).astype(np.int64)
        start = 0
        for client, asked in enumerate(counts[:, kind]):
            if asked:
                parts[client].append(members[np.arange(start, start + asked) % len(members)])
                start += int(asked)
    empty = np.empty(0, dtype=np.int64)
    return [np.sort(np.concatenate([empty, *part])) for part in parts]


def held_out(report: PartitionReport, classes: ArrayLike, *, seed: int = 0) -> list[Indices]:
    """Deal held-out rows in the proportions of the training rows: each client is tested on text like its own.

    report: of the training rows. classes: number of each held-out row's class among `report.classes`,
    (rows,); -1 for a class that no training row has: such rows are dealt like the training rows as a whole.
    Returns sorted row indices per client: every row once, and at least one row for each client unless there
    are fewer rows than clients.
    """
    kinds = np.asarray(classes, dtype=np.int64)
    trained = np.asarray(report.counts, dtype=np.float64)
    num_clients, num_classes = trained.shape
    kinds = np.where(kinds < 0, num_classes, kinds)
    weights = np.concatenate([trained, trained.sum(axis=1, keepdims=True)], axis=1)
    weights[:, weights.sum(axis=0) == 0] = weights[:, -1:]
    sizes = np.bincount(kinds, minlength=num_classes + 1)
    dealt = [largest_remainder(weights[:, k], int(size)) for k, size in enumerate(sizes)]
    counts = keep_minimum(np.stack(dealt, axis=1), min(1, len(kinds) // num_clients))
    return hand_out(kinds, counts, numpy_generator(seed, "partition", "held_out"))
