"""Figures of all held-out rows from those that were evaluated, with their 95 % intervals: pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from splitft.common.statistics import Stratum, ratio_estimate
from splitft.wire.messages import Metrics


@dataclass(frozen=True)
class HeldOutRows:
    """A client's held-out rows: those of its sample, and all."""

    sample: int
    rows: int


@dataclass(frozen=True)
class Estimated:
    """Relative half-width of the perplexity's 95 % interval, and changes since the first evaluation."""

    interval: float | None = None
    change: float | None = None
    change_interval: float | None = None
    accuracy_change: float | None = None


def rows_of(metrics: Metrics) -> int:
    """Return the number of rows that were evaluated."""
    return 0 if metrics.row_nll is None else len(metrics.row_nll)


def weight_of(metrics: Metrics, rows: int | None) -> float:
    """Return how many of a client's rows each evaluated one stands for."""
    taken = rows_of(metrics)
    return rows / taken if rows and taken else 1.0


def estimate(
    metrics: Mapping[str, Metrics], first: Mapping[str, Metrics], all_rows: Mapping[str, int]
) -> Estimated:
    """Estimate the interval of the perplexity, and its change since the first evaluation on rows of both.

    A client's evaluated rows are in one order, the sample first: of two evaluations the first ones are the
    same rows.
    """
    level: list[Stratum] = []
    change: list[Stratum] = []
    accuracy: list[Stratum] = []
    for name, now in metrics.items():
        if now.row_nll is None or now.row_tokens is None or now.row_correct is None:
            continue
        rows, sizes = all_rows.get(name, len(now.row_nll)), now.row_tokens.double().numpy()
        level.append(Stratum(rows, now.row_nll.double().numpy(), sizes))
        start = first.get(name)
        if start is None or start.row_nll is None or start.row_correct is None or start.round == now.round:
            continue
        both = min(len(start.row_nll), len(now.row_nll))
        for strata, own, before in (
            (change, now.row_nll, start.row_nll),
            (accuracy, now.row_correct, start.row_correct),
        ):
            difference = own[:both].double() - before[:both].double()
            strata.append(Stratum(rows, difference.numpy(), sizes[:both]))
    if not level:
        return Estimated()
    interval = finite(ratio_estimate(level)[1])
    moved, width = ratio_estimate(change)
    if not abs(moved) < 700:
        return Estimated(interval)
    ratio = math.exp(moved)
    return Estimated(interval, ratio - 1, scaled(ratio, finite(width)), ratio_estimate(accuracy)[0])


def finite(value: float) -> float | None:
    """Return a number, None for one that is not finite."""
    return value if math.isfinite(value) else None


def scaled(value: float | None, share: float | None) -> float | None:
    """Return share × value; None where one of them is unknown."""
    return None if value is None or share is None else finite(value * share)
