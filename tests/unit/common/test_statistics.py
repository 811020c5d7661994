"""Estimates from samples: the interval holds the figure of all rows in 95 of 100 samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitft.common.statistics import Stratum, ratio_estimate


def clients(rng: np.random.Generator, numbers: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (sums, tokens) of all rows of clients that differ, with long and short rows."""
    found = []
    for rows in numbers:
        tokens = rng.lognormal(4, 0.8, rows).round() + 1
        level = rng.normal(3.5, 0.4)
        found.append((tokens * rng.normal(level, 0.5, rows), tokens))
    return found


def sampled(
    rng: np.random.Generator, whole: list[tuple[np.ndarray, np.ndarray]], taken: int
) -> list[Stratum]:
    strata = []
    for values, sizes in whole:
        rows = rng.permutation(len(values))[:taken]
        strata.append(Stratum(len(values), values[rows], sizes[rows]))
    return strata


def test_the_interval_holds_the_figure_of_all_rows_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(0)
    held, narrow = [], []
    for _ in range(1500):
        whole = clients(rng, [60, 150, 300])
        truth = sum(v.sum() for v, _ in whole) / sum(s.sum() for _, s in whole)
        ratio, half = ratio_estimate(sampled(rng, whole, 40))
        held.append(abs(ratio - truth) <= half)
        narrow.append(abs(ratio - truth) <= half / 2)
    assert 0.92 <= np.mean(held) <= 0.975
    assert np.mean(narrow) < 0.8  # half of it would not do


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_all_rows_give_the_figure_itself_without_an_interval(seed: int, numbers: list[int]) -> None:
    whole = clients(np.random.default_rng(seed), numbers)
    ratio, half = ratio_estimate([Stratum(len(values), values, sizes) for values, sizes in whole])
    assert ratio == pytest.approx(sum(v.sum() for v, _ in whole) / sum(s.sum() for _, s in whole))
    assert half == 0


def test_what_a_sample_cannot_tell() -> None:
    one = np.ones(1)
    assert ratio_estimate([Stratum(5, one, one)]) == (1.0, math.inf)
    assert math.isnan(ratio_estimate([])[0])
    assert math.isnan(ratio_estimate([Stratum(3, np.zeros(0), np.zeros(0))])[0])
