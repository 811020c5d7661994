"""Largest-remainder rounding: whole numbers out of fractions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def largest_remainder(weights: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers that sum to `total`, each within 1 of its exact share; ties go to the lower index."""
    exact = weights / weights.sum() * total
    counts: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    short = total - int(counts.sum())
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[:short]] += 1
    return counts
