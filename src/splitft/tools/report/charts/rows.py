"""Charts with a row for each client or variant: stacked bars, maps of cuts, strips of dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from markupsafe import Markup
from matplotlib.figure import Figure

from splitft.common.figures import INK, SOFT, draw_bar, text_width, variant_colour
from splitft.tools.report.charts import svg
from splitft.tools.report.groups import spread
from splitft.tools.report.units import figure as number
from splitft.tools.report.units import mean_and_sd

MOST_NAMED = 12  # more bars than this lose their names and grow thin
MOST_BARS = 100
MOST_ROWS = 60  # of a map of cuts
Steps = Mapping[str, Sequence[tuple[int, int]]]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Bar:
    """One bar. parts: its pieces in the order of the legend; note: shown at its right."""

    label: str
    parts: Sequence[float]
    note: str = ""


def bar_chart(
    bars: Sequence[Bar],
    legend: Sequence[tuple[str, str]],
    x_label: str,
    y_label: str,
    largest: float | None = None,
    unit: float = 1.0,
) -> Markup | None:
    """Return the chart of stacked bars, None where there is nothing to draw.

    legend: name and #colour of each piece. largest: the end of the axis, where several charts are to be
    compared. unit: what a piece of 1 on the axis measures. More than MOST_BARS bars are thinned out evenly.
    """
    if not bars:
        return None
    total = max(sum(bar.parts) for bar in bars) if largest is None else largest
    bars = evenly(bars, MOST_BARS)
    named = len(bars) <= MOST_NAMED
    figure, axes = _rows([(bar.label, bar.note) for bar in bars], x_label, y_label, named)
    for row, bar in enumerate(bars, start=1):
        parts = [part / unit for part in bar.parts]
        pieces = zip(legend, parts, strict=True)
        gids = [svg.title(f"{bar.label}: {kind} {number(part, 3)}") for (kind, _), part in pieces]
        draw_bar(axes, *_place(row, named), parts, [colour for _, colour in legend], gids)
    axes.set_xlim(0, total / unit or 1.0)
    svg.set_ticks(axes.xaxis, whole=all(isinstance(part, int) for bar in bars for part in bar.parts))
    return svg.inline_svg(figure, f"{x_label} of {', '.join(bar.label for bar in bars[:MOST_NAMED])}")


def cuts_chart(cuts: Steps, last_round: int, shade: Mapping[int, str]) -> Markup | None:
    """Return the chart of {client: [(round, cut)]}, None where there is nothing to draw.

    shade: a #colour for every cut.
    """
    if not cuts:
        return None
    names = evenly(list(cuts), MOST_ROWS)
    which = "number, in their order" if len(names) == len(cuts) else f"{len(names)} of {len(cuts)}, evenly"
    named = len(names) <= MOST_NAMED
    rows = []
    for name in names:
        first_and_last = dict.fromkeys((cuts[name][0][1], cuts[name][-1][1]))
        rows.append((name, " → ".join(map(str, first_and_last))))
    y_label = "client (name, first → last cut)" if named else f"client ({which})"
    figure, axes = _rows(rows, "round (number)", y_label, named)
    first = min(steps[0][0] for steps in cuts.values())
    for row, name in enumerate(names, start=1):
        changes = [s for i, s in enumerate(cuts[name]) if i == 0 or s[1] != cuts[name][i - 1][1]]
        ends = [*(round_ for round_, _ in changes[1:]), last_round + 1]
        lengths = [end - at for (at, _), end in zip(changes, ends, strict=True)]
        gids = [svg.title(f"{name}: cut {cut} from round {at}") for at, cut in changes]
        colours = [shade[cut] for _, cut in changes]
        draw_bar(axes, *_place(row, named), lengths, colours, gids, start=changes[0][0] - 0.5)
    axes.set_xlim(first - 0.5, last_round + 0.5)
    svg.set_ticks(axes.xaxis, whole=True)
    return svg.inline_svg(figure, f"cuts of {len(cuts)} clients by round")


def strip_chart(
    rows: Sequence[tuple[str, int, Sequence[float]]], name: str, unit: str, y_label: str
) -> Markup | None:
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
    figure, axes = _rows(notes, svg.axis_label(name, unit, log), y_label, True)
    for row, ((label, style, own), found) in enumerate(zip(rows, spreads, strict=True), start=1):
        (at, height), sd, colour = _place(row, True), found.sd or 0.0, variant_colour(style)
        axes.plot([found.mean - sd, found.mean + sd], [at, at], color=colour, lw=2)
        axes.plot([found.mean, found.mean], [at - height / 2, at + height / 2], color=colour, lw=2)
        for value in own:
            dot(axes, value, at, 6.8, colour, f"{label}: {number(value)}")
    axes.margins(x=0.06)
    svg.set_ticks(axes.xaxis, log=log)
    return svg.inline_svg(figure, f"{name} of {', '.join(row[0] for row in rows)}")


def dot(axes: Any, x: float, y: float, size: float, colour: str, about: str) -> None:
    """Draw a dot that shows a text on hovering: a line without length, with round ends."""
    axes.plot([x, x], [y, y], color=colour, lw=size, solid_capstyle="round", gid=svg.title(about))


def evenly(items: Sequence[Item], most: int) -> Sequence[Item]:
    """Return at most `most` of the items, at even distances, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _place(row: int, named: bool) -> tuple[float, float]:
    """Middle and height of a row's bar."""
    return (row + 0.28, 0.34) if named else (row, 0.85)


def _rows(rows: Sequence[tuple[str, str]], x_label: str, y_label: str, named: bool) -> tuple[Figure, Any]:
    """A chart whose row i lies around y = i: label and note above its bar, or thin rows with numbers."""
    height = 35.0 if named else max(3.0, min(12.0, 300 / len(rows)))
    figure, axes = svg.new_chart(x_label, y_label, height * len(rows))
    axes.set_ylim(len(rows) + 0.55, 0.5)
    axes.grid(visible=not named, axis="x")
    axes.grid(visible=False, axis="y")
    svg.set_ticks(axes.yaxis, whole=True)
    if named:
        axes.set_yticks([])
    for row, (label, note) in enumerate(rows if named else (), start=1):
        shown = svg.shorten(label, svg.WIDTH - 36 - text_width(note, svg.FONT))
        for x, side, text, colour in ((0, "left", shown, INK), (1, "right", note, SOFT)):
            gid = svg.title(label) if text not in (label, note) else None
            drawn = axes.text(
                x, row - 0.02, text, ha=side, color=colour, gid=gid, transform=axes.get_yaxis_transform()
            )
            drawn.set_in_layout(False)
    return figure, axes
