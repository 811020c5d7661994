"""Stacked bars, one below the other: who holds what, what was sent, where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from splitft.tools.report.charts.axes import LINE, Range, Scale, bottom_axis, row_numbers
from splitft.tools.report.charts.svg import FONT, WIDTH, chart, element, fitted, text, text_width
from splitft.tools.report.units import figure

MOST_NAMED = 12  # more bars than this lose their names and grow thin
MOST_BARS = 100
Item = TypeVar("Item")


@dataclass(frozen=True)
class Bar:
    """One bar. parts: its pieces in the order of the legend; note: shown at its right."""

    label: str
    parts: tuple[float, ...]
    note: str = ""


def bar_chart(
    bars: Sequence[Bar],
    kinds: Sequence[str],
    colours: Sequence[str],
    x_label: str,
    y_label: str,
    *,
    largest: float | None = None,
) -> Markup | None:
    """Return the chart, None where there is nothing to draw.

    kinds, colours: name and CSS class or #colour of each piece. largest: the end of the axis, where several
    charts are to be compared. More than MOST_BARS bars are thinned out evenly, first and last kept.
    """
    if not bars:
        return None
    total = max(sum(bar.parts) for bar in bars) if largest is None else largest
    bars = evenly(bars, MOST_BARS)
    named = len(bars) <= MOST_NAMED
    top = LINE + 6
    thickness = 12.0 if named else max(2.0, min(9.0, 300 / len(bars)))
    row = thickness + (LINE + 5 if named else 1.0)
    bottom = top + row * len(bars) + 3
    left = 0.0 if named else text_width(str(len(bars))) + 8
    scale, below = bottom_axis(Range(x_label, 0.0, total or 1.0), left, bottom, None if named else top)
    marks = [fitted(0, FONT, y_label, WIDTH, class_="axis"), below]
    if not named:
        marks.append(row_numbers(len(bars), row, top, left))
    for number, bar in enumerate(bars):
        y = top + number * row
        if named:
            marks.append(fitted(0, y + FONT, bar.label, WIDTH - text_width(bar.note) - 12))
            marks.append(text(WIDTH, y + FONT, bar.note, "end", "note"))
            y += LINE
        marks.append(_pieces(bar, kinds, colours, scale, y, thickness))
    described = f"{x_label} of {', '.join(bar.label for bar in bars[:MOST_NAMED])}"
    return chart(bottom + 2 * LINE + 8, described, *marks)


def evenly(items: Sequence[Item], most: int) -> Sequence[Item]:
    """Return at most `most` of the items, at even distances, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _pieces(
    bar: Bar, kinds: Sequence[str], colours: Sequence[str], scale: Scale, y: float, thickness: float
) -> Markup:
    marks, start = [], 0.0
    for kind, colour, value in zip(kinds, colours, bar.parts, strict=True):
        width = scale(start + value) - scale(start)
        if width > 0:
            about = element("title", f"{bar.label}: {kind} {figure(value, 3)}")
            paint = {"fill": colour} if colour.startswith("#") else {"class_": f"piece {colour}"}
            marks.append(element("rect", about, x=scale(start), y=y, width=width, height=thickness, **paint))
        start += value
    return Markup("").join(marks)
