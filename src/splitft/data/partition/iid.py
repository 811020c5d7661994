"""Equal shares of shuffled rows."""

from __future__ import annotations

import numpy as np

from splitft.common.seeds import numpy_generator
from splitft.common.shares import largest_remainder
from splitft.data.partition.report import PartitionReport, as_counts, default_names
from splitft.data.partition.shares import check_enough, hand_out
from splitft.data.rows import Indices


def iid(
    num_rows: int,
    num_clients: int,
    *,
    min_rows: int = 1,
    samples_per_client: int | None = None,
    seed: int = 0,
) -> tuple[list[Indices], PartitionReport]:
    """Shuffle the rows and deal equal shares; clients differ by at most one row.

    Args:
        num_rows: Number of rows.
        num_clients: Number of clients.
        min_rows: Fewest rows of a client.
        samples_per_client: Draw exactly this many rows for each client; rows repeat only if there are fewer.
        seed: Any integer; the same seed gives the same deal.

    Returns:
        Sorted row indices per client, and the report with one class, "all".

    Raises:
        DataError: Too few rows for the minimum per client.
    """
    check_enough(num_rows, num_clients, min_rows, samples_per_client)
    if samples_per_client is None:
        rows = largest_remainder(np.ones(num_clients), num_rows)
    else:
        rows = np.full(num_clients, samples_per_client, dtype=np.int64)
    counts = rows[:, None]
    indices = hand_out(np.zeros(num_rows, np.int64), counts, numpy_generator(seed, "partition", "iid"))
    return indices, PartitionReport("iid", default_names(num_clients), ("all",), as_counts(counts))
