"""Charts with a row of dots for each variant: where its seeds ended, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from splitft.common.figures import BASE, draw_dot, variant_colour
from splitft.tools.report.charts import svg
from splitft.tools.report.charts.marks import title
from splitft.tools.report.charts.rows import prepare_rows, row_place, rows_height
from splitft.tools.report.groups import spread
from splitft.tools.report.paired import Paired, signed
from splitft.tools.report.units import figure as number
from splitft.tools.report.units import mean_and_sd

SEED, MEAN = 5.0, 9.0  # points: dots of one seed, and of the mean


def strip_chart(
    rows: Sequence[tuple[str, int, Sequence[float]]], name: str, unit: str, y_label: str
) -> svg.Chart | None:
    """Return the chart of (label, variant's number, a value a seed), None where there is nothing to draw.

    Dots, their mean, and one standard deviation to both sides. The axis does not start at zero: differences
    matter here.
    """
    rows = [row for row in rows if row[2]]
    if not rows:
        return None
    spreads = [found for _, _, own in rows if (found := spread(own))]
    low = min(min(s.low, s.mean - (s.sd or 0.0)) for s in spreads)
    high = max(max(s.high, s.mean + (s.sd or 0.0)) for s in spreads)
    log = svg.far_apart(low, high)
    notes = [(label, mean_and_sd(s.mean, s.sd)) for (label, _, _), s in zip(rows, spreads, strict=True)]

    def paint(axes: Any) -> None:
        prepare_rows(axes, notes)
        for row, ((label, style, own), found) in enumerate(zip(rows, spreads, strict=True), start=1):
            (at, height), sd, colour = row_place(row), found.sd or 0.0, variant_colour(style)
            axes.plot([found.mean - sd, found.mean + sd], [at, at], color=colour, lw=2)
            axes.plot([found.mean, found.mean], [at - height / 2, at + height / 2], color=colour, lw=2)
            for value in own:
                draw_dot(axes, value, at, 6.8, colour, title(label, f"{number(value)} {unit}"))
        axes.margins(x=0.06)
        svg.set_ticks(axes.xaxis, log=log)

    about = f"{name} of {', '.join(row[0] for row in rows)}"
    return svg.Chart(svg.axis_label(name, unit, log), y_label, rows_height(len(rows)), about, paint)


def interval_chart(
    rows: Sequence[tuple[str, int, Paired]],
    name: str,
    unit: str,
    y_label: str,
    ends: tuple[float, float] | None = None,
    *,
    brief: bool = False,
) -> svg.Chart | None:
    """Return the chart of (label, variant's number, its paired differences), None without rows.

    A line at zero; a large dot is a mean, the line through it its 95 % interval, a small dot one seed.
    ends: of the axis, where several charts are to be compared. brief: beside labels stands the mean alone.
    """
    if not rows:
        return None
    notes = [(label, signed(own.mean) if brief else interval_note(own)) for label, _, own in rows]

    def paint(axes: Any) -> None:
        prepare_rows(axes, notes)
        for row, (label, style, found) in enumerate(rows, start=1):
            (at, height), colour = row_place(row), variant_colour(style)
            axes.plot([0, 0], [at - 0.25, at + 0.27], color=BASE, lw=1.2)  # not through the texts
            if found.low is not None and found.high is not None:
                for x, tall in ((found.low, height), (found.high, height)):
                    axes.plot([x, x], [at - tall / 3, at + tall / 3], color=colour, lw=2)
                axes.plot([found.low, found.high], [at, at], color=colour, lw=2)
            for value in found.values:
                draw_dot(axes, value, at + 0.2, SEED, colour, title(label, f"a seed: {signed(value)} {unit}"))
            told = f"mean {interval_note(found)} {unit}"
            draw_dot(axes, found.mean, at, MEAN, colour, title(label, told))
            if not decides(found):
                draw_dot(axes, found.mean, at, MEAN - 4, svg.CARD)
        axes.set_xlim(*(ends or reach([found for _, _, found in rows])))
        svg.set_ticks(axes.xaxis)

    about = f"{name} of {', '.join(f'{label} {note}' for label, note in notes)}"
    return svg.Chart(svg.axis_label(name, unit, False), y_label, rows_height(len(rows)), about, paint)


def decides(found: Paired) -> bool:
    """Whether an interval, in any unit, excludes zero."""
    return found.low is not None and found.high is not None and found.low * found.high > 0


def reach(found: Sequence[Paired]) -> tuple[float, float]:
    """Return the ends of an axis that holds all intervals and seeds, and zero."""
    low = min(0.0, *(end for own in found for end in (*own.values, own.low or 0.0)))
    high = max(0.0, *(end for own in found for end in (*own.values, own.high or 0.0)))
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def interval_note(found: Paired) -> str:
    """Return a mean and its interval in words."""
    if found.low is None or found.high is None:
        return f"{signed(found.mean)}, one seed"
    if found.low == found.high:
        return f"{signed(found.mean)}, all seeds alike"
    return f"{signed(found.mean)} ({signed(found.low)} to {signed(found.high)})"
