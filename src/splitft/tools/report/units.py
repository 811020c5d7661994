"""Figures as people read them: one unit for a whole column or axis, as many digits as mean something."""

from __future__ import annotations

import math

BYTE_UNITS = (("GB", 1e10, 1e9), ("MB", 1e6, 1e6), ("kB", 1e3, 1e3))
TIME_UNITS = (("h", 4 * 3600.0, 3600.0), ("min", 600.0, 60.0), ("s", 0.0, 1.0))


def byte_unit(largest: float) -> tuple[str, float]:
    """Return (name, bytes) of the unit for values up to `largest` bytes; GB from 10 GB on."""
    return next(((name, size) for name, start, size in BYTE_UNITS if largest >= start), ("bytes", 1.0))


def time_unit(largest: float) -> tuple[str, float]:
    """Return (name, seconds) of the unit for values up to `largest` seconds."""
    return next((name, size) for name, start, size in TIME_UNITS if largest >= start)


def figure(value: float, digits: int = 4) -> str:
    """Return a number with `digits` significant digits, at least its whole part, commas between thousands."""
    return f"{value:,.{places(value, digits)}f}"


def places(value: float, digits: int = 4) -> int:
    """Return the decimal places that show `digits` significant digits."""
    if not value or not math.isfinite(value):
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def mean_and_sd(mean: float, sd: float | None, decimals: int | None = None) -> str:
    """Return "mean ± sd" with the same decimal places for both, by default four digits of the mean."""
    if mean == 0 and not sd:
        return "0"
    decimals = places(mean) if decimals is None else decimals
    return f"{mean:,.{decimals}f}" + (f" ± {sd:,.{decimals}f}" if sd is not None else "")
