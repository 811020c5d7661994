"""One value of every seed, variant by variant: dots, the mean, and one standard deviation to both sides."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from splitft.tools.report.charts.axes import LINE, LOG_FROM, Range, bottom_axis
from splitft.tools.report.charts.svg import FONT, WIDTH, chart, element, fitted, text, text_width
from splitft.tools.report.groups import spread
from splitft.tools.report.units import figure, mean_and_sd

ROW = 2.0 * LINE


def strip_chart(
    rows: Sequence[tuple[str, int, Sequence[float]]], name: str, unit: str, y_label: str
) -> Markup | None:
    """Return the chart of (label, style, a value a seed), None where there is nothing to draw.

    The axis does not start at zero: differences matter here.
    """
    rows = [row for row in rows if row[2]]
    if not rows:
        return None
    values = [value for _, _, own in rows for value in own]
    spreads = [found for _, _, own in rows if (found := spread(own))]
    low = min([*values, *(s.mean - (s.sd or 0.0) for s in spreads)])
    high = max([*values, *(s.mean + (s.sd or 0.0) for s in spreads)])
    log = low > 0 and high / low >= LOG_FROM
    label = f"{name} ({unit}{', log scale' if log else ''})"
    top = LINE + 4
    bottom = top + ROW * len(rows) + 4
    scale, below = bottom_axis(Range(label, low, high, log).padded(0.06), 4, bottom)
    marks = [fitted(0, FONT, y_label, WIDTH, class_="axis"), below]
    for number, ((row_label, style, own), found) in enumerate(zip(rows, spreads, strict=True)):
        base = top + number * ROW + FONT
        at = base + 11
        colour = f"v{style % 7}"
        note = mean_and_sd(found.mean, found.sd)
        marks.append(fitted(0, base, row_label, WIDTH - text_width(note) - 12))
        marks.append(text(WIDTH, base, note, "end", "note"))
        if found.sd:
            ends = {"x1": scale(found.mean - found.sd), "x2": scale(found.mean + found.sd)}
            marks.append(element("line", **ends, y1=at, y2=at, class_=f"whisker {colour}"))
        centre = scale(found.mean)
        marks.append(element("line", x1=centre, x2=centre, y1=at - 6, y2=at + 6, class_=f"whisker {colour}"))
        for value in own:
            about = element("title", f"{row_label}: {figure(value)}")
            marks.append(element("circle", about, cx=scale(value), cy=at, r=3.4, class_=f"dot {colour}"))
    described = f"{name} of {', '.join(row[0] for row in rows)}"
    return chart(bottom + 2 * LINE + 8, described, *marks)
