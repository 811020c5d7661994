"""Comparisons paired by seed: the mean of the differences and its interval. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

# Two-sided 95 % quantiles of Student's t, by degrees of freedom; the last one stands for all above.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
LEAST = 1e-4  # relative differences up to here decide nothing: orders of summation alone make some


@dataclass(frozen=True)
class Paired:
    """A comparison by seed: one value a seed; sd and the 95 % interval of the mean are None with one seed."""

    values: tuple[float, ...]
    mean: float
    sd: float | None
    low: float | None
    high: float | None

    @property
    def side(self) -> int:
        """-1 where the whole interval lies below zero, 1 where it lies above, 0 where nothing is decided."""
        if self.low is None or self.high is None:
            return 0
        return -1 if self.high < -LEAST else 1 if self.low > LEAST else 0

    def times(self, factor: float) -> Paired:
        """Return it in another unit."""
        ends = (None if end is None else factor * end for end in (self.sd, self.low, self.high))
        return Paired(tuple(factor * value for value in self.values), factor * self.mean, *ends)


def paired(values: Sequence[float]) -> Paired | None:
    """Return mean, standard deviation and 95 % t interval of values that are one a seed; None without any."""
    if not values:
        return None
    mean = fmean(values)
    if len(values) == 1:
        return Paired(tuple(values), mean, None, None, None)
    sd = stdev(values)
    half = half_width(sd, len(values))
    return Paired(tuple(values), mean, sd, mean - half, mean + half)


def half_width(sd: float, count: int) -> float:
    """Return half the 95 % t interval of a mean of `count` values with this standard deviation."""
    return _T95[min(count - 1, len(_T95)) - 1] * sd / math.sqrt(count)


def ratios(ours: Mapping[Any, float | None], theirs: Mapping[Any, float | None]) -> list[float]:
    """Return ours / theirs for every seed that both have; one where both are nothing."""
    pairs = [(a, b) for seed, a in ours.items() if a is not None and (b := theirs.get(seed)) is not None]
    return [1.0 if a == b else a / b for a, b in pairs if b or a == b]


def signed(value: float) -> str:
    """Return a difference with its sign and two significant digits, three from 100 on."""
    if not value:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    text = f"{value:+,.{min(digits, 3)}f}"
    if not float(text.replace(",", "")):
        text = f"{value:+.1e}"
    return f"−{text[1:]}" if value < 0 else text
