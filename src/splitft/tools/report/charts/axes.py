"""Scales, ticks that never touch, and the frame of a chart: grid, tick labels, and both axes' names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from splitft.tools.report.charts.svg import FONT, WIDTH, element, fitted, text, text_width
from splitft.tools.report.units import places

LINE = 18.0  # from base line to base line
TOP = LINE + 12  # upper end of what lines are drawn in
LOG_FROM = 5.0  # a scale turns logarithmic where its largest value is this many times the smallest


@dataclass(frozen=True)
class Scale:
    """Maps values [low, high] to places [start, end] in a chart."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False  # ticks at whole numbers only

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Range:
    """Values that an axis must show, and its name with the unit in brackets."""

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def padded(self, share: float) -> Range:
        """Return it with some room on both sides."""
        if self.log:
            factor = max(self.high / self.low, 1.02) ** share
            return Range(self.label, self.low / factor, self.high * factor, True, self.whole)
        pad = share * ((self.high - self.low) or abs(self.high) or 1.0)
        return Range(self.label, self.low - pad, self.high + pad, False, self.whole)


@dataclass(frozen=True)
class ChartFrame:
    """Where to draw: scales of both axes, and what is drawn around them."""

    x: Scale
    y: Scale
    height: float
    marks: Markup


def frame(
    x: Range, y: Range, height: float = 190.0, lowest: float = -math.inf, right: float = WIDTH - 4
) -> ChartFrame:
    """Return the frame of a chart of lines: y's name above, its ticks at the left, x below.

    height: Room of the lines.
    lowest: Least value of y with a tick.
    right: End of the lower axis.
    """
    bottom = TOP + height
    y_scale = Scale(y.low, y.high, bottom, TOP, y.log, y.whole)
    y_ticks = [(value, label) for value, label in ticks(y_scale) if value >= lowest]
    left = max((text_width(label) for _, label in y_ticks), default=0.0) + 8
    x_scale, below = bottom_axis(x, left, bottom, right=right)
    marks = [fitted(0, FONT, y.label, WIDTH, class_="axis")]
    for value, label in y_ticks:
        at = y_scale(value)
        marks.append(element("line", x1=left, x2=x_scale.end, y1=at, y2=at, class_="grid"))
        marks.append(text(left - 6, at + 0.36 * FONT, label, "end"))
    marks.append(below)
    return ChartFrame(x_scale, y_scale, bottom + 2 * LINE + 8, Markup("").join(marks))


def row_numbers(count: int, row: float, top: float, left: float) -> Markup:
    """Return numbers of rows that have no room for names."""
    marks = []
    for value in linear_ticks(1, count, 6, whole=True):
        y = top + (value - 1) * row + row / 2 + 0.36 * FONT
        marks.append(text(left - 6, y, f"{value:.0f}", "end"))
    return Markup("").join(marks)


def bottom_axis(
    x: Range, left: float, bottom: float, upper: float | None = None, right: float = WIDTH - 4
) -> tuple[Scale, Markup]:
    """Return the scale of the lower axis with its line, ticks and name; it takes 2 LINE + 8 below `bottom`.

    upper: where vertical grid lines start; without it there are none.
    """
    scale = Scale(x.low, x.high, left, right, x.log, x.whole)
    labels = ticks(scale)
    reach = max((scale(v) + text_width(label) / 2 for v, label in labels), default=0.0)
    if reach > WIDTH:  # the last label would stick out
        scale = Scale(x.low, x.high, left, right - (reach - WIDTH), x.log, x.whole)
        labels = ticks(scale)
    marks = [element("line", x1=left, x2=scale.end, y1=bottom, y2=bottom, class_="base")]
    for value, label in labels:
        at = scale(value)
        start = bottom if upper is None else upper
        marks.append(element("line", x1=at, x2=at, y1=start, y2=bottom + 4, class_="grid"))
        marks.append(text(max(at, text_width(label) / 2), bottom + LINE, label, "middle"))
    marks.append(
        fitted(
            max(right, min(text_width(x.label), WIDTH)), bottom + 2 * LINE + 2, x.label, WIDTH, "end", "axis"
        )
    )
    return scale, Markup("").join(marks)


def ticks(scale: Scale) -> list[tuple[float, str]]:
    """Return as many ticks as fit beside each other, with their labels."""
    across = abs(scale.end - scale.start)
    upright = scale.start > scale.end
    for most in (6, 5, 4, 3, 2, 1):
        values = log_ticks(scale.low, scale.high, most) if scale.log else []
        if len(values) < 2:
            values = linear_ticks(scale.low, scale.high, most, scale.whole)
        labels = tick_labels(values)
        places_ = sorted((scale(v), text_width(t)) for v, t in zip(values, labels, strict=True))
        gaps = [
            b - a - (FONT * 1.4 if upright else (wa + wb) / 2 + 10) for (a, wa), (b, wb) in pairwise(places_)
        ]
        if all(gap >= 0 for gap in gaps) and (not upright or most * FONT * 1.4 < across + FONT * 2):
            break
    return list(zip(values, labels, strict=True))


def linear_ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Return at most about `most` round values within [low, high]."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # too close for labels to tell apart
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [power * factor for factor in (1, 2, 2.5, 5, 10)]
    if whole:
        steps = [1.0, *(step for step in steps if step >= 1 and step == int(step))]
    step = next((s for s in steps if s >= rough * 0.999), steps[-1])
    slack = 1e-9 * min(1.0, (high - low) / step)
    first, last = math.ceil(low / step - slack), math.floor(high / step + slack)
    return [0.0 if i == 0 else i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return 1, 2 and 5 times powers of ten within [low, high], or powers alone where these are too many."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high]
        if len(values) <= most:
            return values
    stride = math.ceil(len(values) / most)
    return values[::stride]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Return labels with the same number of decimal places, as few as tell the ticks apart."""
    step = min((abs(b - a) for a, b in pairwise(values)), default=0.0)
    if len(values) > 2 and values[0] > 0 and values[-1] / values[0] >= 10 and step < 1:  # logarithmic
        return [f"{value:,.{places(value, 1)}f}" for value in values]
    decimals = 0
    while decimals < 20 and any(abs(round(v, decimals) - v) > 1e-6 * (step or abs(v)) for v in values):
        decimals += 1
    return [f"{value:,.{decimals}f}" for value in values]
