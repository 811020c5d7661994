"""Curves of several variants: a line through the means, a band from the lowest to the highest seed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from splitft.common.figures import variant_colour
from splitft.tools.report.charts.rows import dot
from splitft.tools.report.charts.svg import axis_label, far_apart, inline_svg, new_chart, set_ticks
from splitft.tools.report.units import figure as number

DASHES = ("-", (0, (3, 2)), (0, (1, 2)), (0, (4, 1.5, 1, 1.5)))
MOST_RIMS = 3
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
    share: bool = False,
) -> Markup | None:  # fmt: skip
    """Return the chart of all curves, None where there is nothing to draw.

    Axes turn logarithmic by themselves where values lie far apart, and say so. whole_x: x counts something.
    share: y is a share of a whole and never logarithmic. Lines that others cover are drawn wider, as rims.
    """
    if not curves:
        return None
    lows = [value for curve in curves for value in curve.low]
    highs = [value for curve in curves for value in curve.high]
    log_y = not share and far_apart(min(lows), max(highs))
    ends = [curve.x[-1] for curve in curves]
    log_x = not whole_x and min(ends) > 0 and max(ends) / min(ends) >= LOG_X_FROM
    if log_x:
        curves = [curve.since(min(x for own in curves for x in own.x if x > 0)) for curve in curves]
    figure, axes = new_chart(axis_label(x_name, x_unit, log_x), axis_label(y_name, y_unit, log_y), 190)
    for place, curve in enumerate(curves):
        colour = variant_colour(curve.style)
        if curve.low != curve.high:
            edge = [*curve.high, *curve.low[::-1]]
            axes.fill([*curve.x, *curve.x[::-1]], edge, color=colour, alpha=0.17, lw=0)
        rims = sum(coincide(curve, later) for later in curves[place + 1 :])
        width = 2 + 1.6 * min(rims, MOST_RIMS)
        axes.plot(curve.x, curve.y, color=colour, lw=width, ls=DASHES[curve.style // 7 % len(DASHES)])
        last = len(curve.x) - 1
        for i, (x, y) in enumerate(zip(curve.x, curve.y, strict=True)):
            if i == last or last < MANY_POINTS:
                about = f"{curve.label}: {number(y)} ({y_unit}) at {number(x)} ({x_unit})"
                dot(axes, x, y, 6.8 if i == last else 4.4, colour, about)
    axes.grid(visible=False, axis="x")
    if not whole_x and not log_x:
        axes.set_xlim(left=0)
    set_ticks(axes.xaxis, whole_x, log_x)
    set_ticks(axes.yaxis, log=log_y)
    return inline_svg(figure, f"{y_name} against {x_name}: {', '.join(curve.label for curve in curves)}")


def coincide(one: Curve, other: Curve) -> bool:
    """Whether one line would cover the other: most of their points are the same to the eye."""
    places = dict(zip(other.x, other.y, strict=True))
    common = [(y, places[x]) for x, y in zip(one.x, one.y, strict=True) if x in places]
    height = max(*one.y, *other.y) - min(*one.y, *other.y)
    same = sum(abs(a - b) <= 0.005 * height for a, b in common)
    return len(common) > 1 and same > len(common) / 2
