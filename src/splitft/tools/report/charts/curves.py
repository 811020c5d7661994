"""Curves of several variants: a line through the means, a band from the lowest to the highest seed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from splitft.common.figures import draw_dot, variant_colour, variant_dashes
from splitft.tools.report.charts.marks import hit, title
from splitft.tools.report.charts.rows import evenly
from splitft.tools.report.charts.svg import Chart, axis_label, far_apart, set_ticks
from splitft.tools.report.units import figure as number

MOST_HITS = 25  # places of a line that show their values on hovering
MANY_POINTS = 25  # above this, points would hide the line
LOG_X_FROM = 20.0  # variants whose ends lie further apart than this need a logarithmic x axis


@dataclass(frozen=True)
class Curve:
    """One variant's curve: means over seeds, with the lowest and the highest seed at each place."""

    label: str  # the variant
    style: int  # its number; colour and dashes follow from it
    x: tuple[float, ...]  # rising
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def since(self, least: float) -> Curve:
        """Return its part from an x on."""
        start = bisect_left(self.x, least)
        parts = (values[start:] for values in (self.x, self.y, self.low, self.high))
        return Curve(self.label, self.style, *parts)

    def in_unit(self, size: float) -> Curve:
        """Return it with every x divided by `size`."""
        return replace(self, x=tuple(x / size for x in self.x))


def curve_chart(
    curves: Sequence[Curve], x_name: str, x_unit: str, y_name: str, y_unit: str, *, whole_x: bool = False,
    share: bool = False, ends: tuple[float, float] | None = None, x_end: float | None = None,
) -> Chart | None:  # fmt: skip
    """Return the chart of all curves, None where there is nothing to draw.

    Axes turn logarithmic by themselves where values lie far apart, and say so. whole_x: x counts something.
    share: y is a share of a whole and never logarithmic. ends, x_end: of y and of x, where several
    charts are to be compared.
    Lines under dashed ones show through their gaps; of equal bands one is drawn.
    """
    if not curves:
        return None
    bottom, top = ends or height_of(curves)
    log_y = not share and far_apart(bottom, top)
    lengths = [curve.x[-1] for curve in curves]
    log_x = not whole_x and min(lengths) > 0 and max(lengths) / min(lengths) >= LOG_X_FROM
    if log_x:
        curves = [curve.since(min(x for own in curves for x in own.x if x > 0)) for curve in curves]

    def paint(axes: Any) -> None:
        bands = {(curve.x, curve.low, curve.high): curve for curve in reversed(curves)}  # equal ones once
        for curve in bands.values():
            _draw_band(axes, curve)
        for curve in curves:
            _draw_curve(axes, curve, x_name, "" if whole_x else x_unit, y_unit)
        axes.grid(visible=False, axis="x")
        if not whole_x and not log_x:
            axes.set_xlim(0, x_end)
        if ends:
            room = 0.05 * (top - bottom)
            axes.set_ylim(*((bottom / 1.05, top * 1.05) if log_y else (bottom - room, top + room)))
        set_ticks(axes.xaxis, whole_x, log_x)
        set_ticks(axes.yaxis, log=log_y)

    return Chart(
        axis_label(x_name, x_unit, log_x),
        axis_label(y_name, y_unit, log_y),
        190,
        f"{y_name} against {x_name}: {', '.join(curve.label for curve in curves)}",
        paint,
    )


def height_of(curves: Sequence[Curve]) -> tuple[float, float]:
    """Return the lowest and the highest value of all curves."""
    lows = [value for curve in curves for value in curve.low]
    highs = [value for curve in curves for value in curve.high]
    return min(lows), max(highs)


def _draw_band(axes: Any, curve: Curve) -> None:
    if curve.low != curve.high:
        edge = [*curve.high, *curve.low[::-1]]
        axes.fill([*curve.x, *curve.x[::-1]], edge, color=variant_colour(curve.style), alpha=0.17, lw=0)


def _draw_curve(axes: Any, curve: Curve, x_name: str, x_unit: str, y_unit: str) -> None:
    """Draw line and dots; of many points only the last has a dot, and some show values.

    x_unit: empty where x counts something.
    """
    colour = variant_colour(curve.style)
    axes.plot(curve.x, curve.y, color=colour, lw=2, ls=variant_dashes(curve.style))
    last = len(curve.x) - 1
    told = evenly(range(len(curve.x)), MOST_HITS)
    for i in told:
        x, y, seen = curve.x[i], curve.y[i], i == last or last < MANY_POINTS
        spread = (
            f" ({number(curve.low[i])} to {number(curve.high[i])})" if curve.low[i] < curve.high[i] else ""
        )
        place = f"{x_name}: {number(x)} {x_unit}" if x_unit else f"{x_name} {x:,.0f}"
        lines = (curve.label, f"{number(y)}{spread} {y_unit}", place)
        gid = title(*lines) if seen else hit(*lines)
        draw_dot(axes, x, y, 6.8 if i == last else 4.4, colour, gid)


def coincide(one: Curve, other: Curve) -> bool:
    """Whether one line would cover the other: most of their points are the same to the eye."""
    places = dict(zip(other.x, other.y, strict=True))
    common = [(y, places[x]) for x, y in zip(one.x, one.y, strict=True) if x in places]
    height = max(*one.y, *other.y) - min(*one.y, *other.y)
    same = sum(abs(a - b) <= 0.005 * height for a, b in common)
    return len(common) > 1 and same > len(common) / 2
