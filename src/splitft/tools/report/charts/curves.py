"""Curves of several variants: a line through the means, a band from the lowest to the highest seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from splitft.tools.report.charts.axes import LOG_FROM, ChartFrame, Range, frame
from splitft.tools.report.charts.svg import chart, element, path
from splitft.tools.report.units import figure

MOST_RIMS = 3
MANY_POINTS = 25  # above this, points would hide the line
LOG_X_FROM = 20.0  # variants whose ends lie further apart than this need a logarithmic x axis


@dataclass(frozen=True)
class Curve:
    """One variant's curve.

    Attributes:
        label: The variant.
        style: Its number; colour and dashes follow from it.
        x: Means over seeds, rising.
        y: Means over seeds.
        low: Lowest seed at each place.
        high: Highest seed at each place.
    """

    label: str
    style: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def from_half(self) -> Curve:
        """Return its part from half of its largest x on."""
        start = sum(1 for x in self.x if x < self.x[-1] / 2)
        x, y, low, high = (values[start:] for values in (self.x, self.y, self.low, self.high))
        return Curve(self.label, self.style, x, y, low, high)


def curve_chart(
    curves: Sequence[Curve], x_name: str, x_unit: str, y_name: str, y_unit: str, *, whole_x: bool = False,
    share: bool = False,
) -> Markup | None:  # fmt: skip
    """Return the chart of all curves, None where there is nothing to draw.

    Axes turn logarithmic by themselves where values lie far apart, and say so. whole_x: x counts something.
    share: y is a share of a whole and never logarithmic. Lines that others cover are drawn wider, as rims.
    """
    curves = [curve for curve in curves if curve.x]
    if not curves:
        return None
    lows = [value for curve in curves for value in curve.low]
    highs = [value for curve in curves for value in curve.high]
    log_y = not share and min(lows) > 0 and max(highs) / min(lows) >= LOG_FROM
    ends = [curve.x[-1] for curve in curves]
    log_x = not whole_x and min(ends) > 0 and max(ends) / min(ends) >= LOG_X_FROM
    start = min(x for curve in curves for x in curve.x if x > 0) if log_x else 0.0
    if whole_x:
        start = min(curve.x[0] for curve in curves)
    x_range = Range(_label(x_name, x_unit, log_x), start, max(ends), log_x, whole_x)
    y_range = Range(_label(y_name, y_unit, log_y), min(lows), max(highs), log_y).padded(0.05)
    if log_x:
        x_range = x_range.padded(0.03)
    box = frame(x_range, y_range)
    marks = [_band(curve, box) for curve in curves]
    for number, curve in enumerate(curves):
        rims = sum(coincide(curve, later) for later in curves[number + 1 :])
        marks.append(_line(curve, box, x_unit, y_unit, 2 + 1.6 * min(rims, MOST_RIMS)))
    described = f"{y_name} against {x_name}: {', '.join(curve.label for curve in curves)}"
    return chart(box.height, described, box.marks, *marks)


def coincide(one: Curve, other: Curve) -> bool:
    """Whether one line would cover the other: most of their points are the same to the eye."""
    places = dict(zip(other.x, other.y, strict=True))
    common = [(y, places[x]) for x, y in zip(one.x, one.y, strict=True) if x in places]
    height = max([*one.y, *other.y], default=0.0) - min([*one.y, *other.y], default=0.0)
    same = sum(abs(a - b) <= 0.005 * height for a, b in common)
    return len(common) > 1 and same > len(common) / 2


def _label(name: str, unit: str, log: bool) -> str:
    return f"{name} ({unit}{', log scale' if log else ''})"


def _places(curve: Curve, box: ChartFrame, values: Sequence[float]) -> list[tuple[float, float]]:
    pairs = zip(curve.x, values, strict=True)
    return [(box.x(x), box.y(y)) for x, y in pairs if x > 0 or not box.x.log]


def _band(curve: Curve, box: ChartFrame) -> Markup:
    if curve.low == curve.high:
        return Markup("")
    edge = _places(curve, box, curve.high) + _places(curve, box, curve.low)[::-1]
    return path(edge, closed=True, class_=f"band v{curve.style % 7}")


def _line(curve: Curve, box: ChartFrame, x_unit: str, y_unit: str, width: float) -> Markup:
    colour = f"v{curve.style % 7}"
    places = _places(curve, box, curve.y)
    marks = [path(places, class_=f"line {colour} d{curve.style // 7 % 4}", stroke_width=width)]
    shown = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if x > 0 or not box.x.log]
    last = len(places) - 1
    for number, ((at_x, at_y), (x, y)) in enumerate(zip(places, shown, strict=True)):
        if number == last or len(places) <= MANY_POINTS:
            about = f"{curve.label}: {figure(y)} ({y_unit}) at {figure(x)} ({x_unit})"
            size, kind = (3.4, "dot") if number == last else (2.2, "dot small")
            title = element("title", about)
            marks.append(element("circle", title, cx=at_x, cy=at_y, r=size, class_=f"{kind} {colour}"))
    return Markup("").join(marks)
