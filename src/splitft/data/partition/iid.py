"""Equal shares of shuffled rows."""

from __future__ import annotations

import numpy as np

from splitft.common.shares import largest_remainder
from splitft.data.partition.report import PartitionReport, as_counts, default_names
from splitft.data.partition.shares import Quota, check_enough, hand_out
from splitft.data.rows import Indices


def iid(num_rows: int, num_clients: int, quota: Quota) -> tuple[list[Indices], PartitionReport]:
    """Shuffle the rows and deal equal shares; clients differ by at most one row.

    Returns:
        Sorted row indices per client, and the report with one class, "all".

    Raises:
        DataError: Too few rows for the minimum per client.
    """
    check_enough(num_rows, num_clients, quota)
    if quota.samples_per_client is None:
        rows = largest_remainder(np.ones(num_clients), num_rows)
    else:
        rows = np.full(num_clients, quota.samples_per_client, dtype=np.int64)
    counts = rows[:, None]
    indices = hand_out(np.zeros(num_rows, np.int64), counts, quota.generator("iid"))
    return indices, PartitionReport("iid", default_names(num_clients), ("all",), as_counts(counts))
