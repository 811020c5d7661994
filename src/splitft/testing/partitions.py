"""The contract of a partition."""

from __future__ import annotations

import numpy as np

from splitft.common.seeds import numpy_generator
from splitft.data.partition.registry import PARTITIONS, Partition, TrainingRows, deal_by
from splitft.data.rows import Indices
from splitft.job.sections import PartitionConfig
from splitft.testing.contract import contract, require

_NAME = "partition under test"


def check_partition(
    function: Partition, config: PartitionConfig | None = None, rows: int = 200, clients: int = 4
) -> None:
    """Check a partition as it is registered: every client gets rows, no row goes to two, the seed decides.

    config: keys of `partition` that it reads. rows: training rows of random lengths and two labels.
    """
    PARTITIONS.register(_NAME, function)
    config = config or PartitionConfig(method=_NAME)
    lengths = numpy_generator(0, "lengths").integers(2, 200, rows).astype(np.int64)
    labels = tuple("ab"[length % 2] for length in lengths.tolist())

    def dealt() -> list[Indices]:
        return deal_by(_NAME, TrainingRows(lengths, labels), clients, config, numpy_generator(0, "rows"))

    with contract():
        one, other = dealt(), dealt()
    same = all(np.array_equal(own, again) for own, again in zip(one, other, strict=True))
    require(same, "the partition dealt otherwise under the same seed: draw from the generator alone")
