"""Equal shares of shuffled rows."""

from __future__ import annotations

import numpy as np

from splitft.common.shares import largest_remainder
from splitft.data.partition.deal import Dealt, deal
from splitft.data.partition.shares import Quota, check_enough


def iid(num_rows: int, num_clients: int, quota: Quota) -> Dealt:
    """Shuffle the rows and deal equal shares; clients differ by at most one row. The one class is "all".

    Raises DataError where there are too few rows for the minimum per client.
    """
    check_enough(num_rows, num_clients, quota)
    if quota.samples_per_client is None:
        rows = largest_remainder(np.ones(num_clients), num_rows)
    else:
        rows = np.full(num_clients, quota.samples_per_client, dtype=np.int64)
    return deal("iid", np.zeros(num_rows, np.int64), ["all"], rows[:, None], quota.generator("iid"))
