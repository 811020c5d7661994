"""The order in which a client's held-out rows are evaluated: a seeded sample first, then the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from splitft.common.seeds import numpy_generator
from splitft.common.statistics import Z_95
from splitft.data.rows import Indices
from splitft.job.settings import EvaluationSettings

# Standard deviation of a row's negative log-likelihood a token, in nats, from which samples are sized (0.59
# with builtin:sotu and the demo model). The intervals that a run shows are measured.
ROW_SD = 0.6
TRAINED_SHARE = 0.08  # `auto`: rows of a sample, of the rows trained since the evaluation before
LEAST_ROWS = 4  # of a client in a sample
LEAST_ROWS_FOR_ACCURACY = 16  # where a cut policy goes by each client's accuracy


@dataclass(frozen=True)
class HeldOutPart:
    """A part of a client's held-out rows.

    Attributes:
        sample: Rows of the client's sample.
        whole: The other rows, too.
        have: Batches that the server has had, and does not need again.
    """

    sample: int
    whole: bool
    have: int = 0


def sample_rows(settings: EvaluationSettings, name: str, rows: Mapping[str, int]) -> int:
    """Return how many of a client's held-out rows a sample has.

    Args:
        name: The client.
        rows: Held-out rows of all clients that are known.
    """
    own, wanted = rows[name], settings.eval_precision
    if not wanted:
        return own
    if wanted == "auto":
        trained = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        count = math.ceil(TRAINED_SHARE * trained * settings.local_steps * settings.eval_every)
    else:
        everything = sum(rows.values())
        infinite = (Z_95 * ROW_SD / wanted) ** 2
        count = math.ceil(infinite / (1 + infinite / everything) * own / everything) if everything else 0
    least = LEAST_ROWS_FOR_ACCURACY if settings.cut_policy.reads_accuracy else LEAST_ROWS
    return min(own, max(count, least))


def held_out_batches(
    lengths: Indices, part: HeldOutPart, size: int, seed: int, name: str
) -> list[tuple[int, Indices]]:
    """Return (number, row numbers) of each batch: those of the sample, then those of the other rows.

    Rows of like length are together in either. The sample depends on the seed, the client's name and the
    number of its rows. A sample of all rows is the rows by length.
    """
    order = held_out_order(lengths, part.sample, seed, name)
    numbers = batch_numbers(len(lengths), replace(part, have=0), size)
    ends = [min(first + size, part.sample if first < part.sample else len(order)) for first in numbers]
    return [(first, order[first:end]) for first, end in zip(numbers, ends, strict=True)][part.have :]


def held_out_order(lengths: Indices, sample: int, seed: int, name: str) -> Indices:
    """Return a client's row numbers in the order of its evaluations: see `held_out_batches`."""
    drawn = numpy_generator(seed, "evaluation", name).permutation(len(lengths))
    groups = [np.sort(drawn[:sample]), np.sort(drawn[sample:])]
    return np.concatenate([group[np.argsort(lengths[group], kind="stable")] for group in groups])


def batch_numbers(rows: int, part: HeldOutPart, size: int) -> list[int]:
    """Return the number, which is that of the first row, of each batch of `held_out_batches`."""
    sample = min(rows, part.sample)
    numbers = [*range(0, sample, size), *(range(sample, rows, size) if part.whole else ())]
    return numbers[part.have :]
