"""Natural sites: one client per data file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from splitft.data.partition.by_column import natural_sites
from splitft.data.partition.report import PartitionReport
from splitft.data.rows import Indices


def files(
    source: ArrayLike,
    names: Sequence[str] | None = None,
    *,
    min_rows: int = 1,
    samples_per_client: int | None = None,
    seed: int = 0,
) -> tuple[list[Indices], PartitionReport]:
    """One client for each data file, in the order of the files.

    Args:
        source: Number of the file that each row came from, (rows,).
        names: One name per file; default file-0, file-1, ... up to the largest number in `source`.
        min_rows: Fewest rows of a client; rows never move between files.
        samples_per_client: Draw exactly this many rows for each client; rows repeat only if it has fewer.
        seed: Of that draw.

    Returns:
        Sorted row indices per client, and the report whose classes are the files.

    Raises:
        DataError: A file with fewer than `min_rows` rows.
    """
    classes = np.asarray(source, dtype=np.int64)
    if names is None:
        names = [f"file-{i}" for i in range(int(classes.max(initial=-1)) + 1)]
    return natural_sites(
        "files", names, classes, min_rows=min_rows, samples_per_client=samples_per_client, seed=seed
    )
