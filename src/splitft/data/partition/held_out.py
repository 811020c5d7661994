"""Held-out rows dealt as the training rows were, so that each client is tested on text like its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from splitft.common.seeds import numpy_generator
from splitft.common.shares import largest_remainder
from splitft.data.partition.report import PartitionReport
from splitft.data.partition.shares import hand_out, keep_minimum
from splitft.data.rows import Indices


def held_out(report: PartitionReport, classes: ArrayLike, *, seed: int = 0) -> list[Indices]:
    """Deal held-out rows by the proportions in which each class of training rows was dealt.

    Args:
        report: Report of the training rows' partition.
        classes: Number of each held-out row's class among `report.classes`, (rows,); -1 for a class that no
            training row has: such rows are dealt like the training rows as a whole.
        seed: Any integer; the same seed gives the same deal.

    Returns:
        Sorted row indices per client: every row once, and at least one row for each client unless there are
        fewer rows than clients.
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
