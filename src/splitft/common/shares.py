"""Whole rows out of fractions: largest-remainder rounding, a minimum per client, dealing and drawing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splitft.partition.report import Indices


def largest_remainder(weights: NDArray[np.float64], total: int) -> Indices:
    """Whole numbers that sum to `total`, each within 1 of its exact share; ties go to the lower index."""
    exact = weights / weights.sum() * total
    counts: Indices = np.floor(exact).astype(np.int64)
    short = total - int(counts.sum())
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[:short]] += 1
    return counts
