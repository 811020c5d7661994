"""Estimates from a sample of rows, with their 95 % intervals: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Stratum:
    """A simple random sample of one client's rows.

    Attributes:
        rows: All rows that it was drawn from.
        values: (sampled,) sums of the rows, as of the negative log-likelihood.
        sizes: (sampled,) tokens of these rows.
    """

    rows: int
    values: Values
    sizes: Values


def ratio_estimate(strata: Sequence[Stratum]) -> tuple[float, float]:
    """Return an estimate of (sum of values) / (sum of sizes) over all rows, and its interval's half-width.

    The combined ratio estimator of stratified samples drawn without replacement, with its variance by
    linearisation (Cochran, Sampling Techniques, 3rd ed., 6.4 and 6.11). The interval is that of the sampling:
    how far the figure may lie from that of all these rows, however they correlate; it is 0 where all were
    taken. Half-width: infinite where a stratum has one row of several.
    """
    weights = [s.rows / len(s.values) if len(s.values) else 0.0 for s in strata]
    total = sum(w * float(s.sizes.sum()) for w, s in zip(weights, strata, strict=True))
    if not total:
        return math.nan, math.inf
    ratio = sum(w * float(s.values.sum()) for w, s in zip(weights, strata, strict=True)) / total
    variance = 0.0
    for stratum in strata:
        taken = len(stratum.values)
        if 0 < taken < stratum.rows:
            residuals = stratum.values - ratio * stratum.sizes
            spread = float(residuals.var(ddof=1)) if taken > 1 else math.inf
            variance += stratum.rows**2 * (1 - taken / stratum.rows) * spread / taken
    return ratio, Z_95 * math.sqrt(variance) / total
