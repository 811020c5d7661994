"""Charts with a row for each client or variant: stacked bars and maps of cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from splitft.common.figures import INK, SOFT, draw_bar, text_width
from splitft.tools.report.charts import svg
from splitft.tools.report.charts.marks import title
from splitft.tools.report.units import figure as number

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
) -> svg.Chart | None:
    """Return the chart of stacked bars, None where there is nothing to draw.

    legend: name and #colour of each piece. largest: the end of the axis, where several charts are to be
    compared. unit: what a piece of 1 on the axis measures. More than MOST_BARS bars are thinned out evenly.
    """
    if not bars:
        return None
    total = max(sum(bar.parts) for bar in bars) if largest is None else largest
    bars = evenly(bars, MOST_BARS)
    named = len(bars) <= MOST_NAMED
    rows = [(bar.label, bar.note) for bar in bars]
    what = unit_of(x_label)

    def paint(axes: Any) -> None:
        prepare_rows(axes, rows, named)
        for row, bar in enumerate(bars, start=1):
            parts = [part / unit for part in bar.parts]
            pieces = zip(legend, parts, strict=True)
            gids = [title(bar.label, f"{kind}: {number(part, 3)} {what}") for (kind, _), part in pieces]
            draw_bar(axes, *row_place(row, named), parts, [colour for _, colour in legend], gids)
        axes.set_xlim(0, total / unit or 1.0)
        svg.set_ticks(axes.xaxis, whole=all(isinstance(part, int) for bar in bars for part in bar.parts))

    about = f"{x_label} of {', '.join(bar.label for bar in bars[:MOST_NAMED])}"
    return svg.Chart(x_label, y_label, rows_height(len(rows), named), about, paint)


def cuts_chart(cuts: Steps, last_round: int, shade: Mapping[int, str]) -> svg.Chart | None:
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
    first = min(steps[0][0] for steps in cuts.values())

    def paint(axes: Any) -> None:
        prepare_rows(axes, rows, named)
        for row, name in enumerate(names, start=1):
            changes = [s for i, s in enumerate(cuts[name]) if i == 0 or s[1] != cuts[name][i - 1][1]]
            ends = [*(round_ for round_, _ in changes[1:]), last_round + 1]
            lengths = [end - at for (at, _), end in zip(changes, ends, strict=True)]
            gids = [title(name, f"cut {cut} from round {at}") for at, cut in changes]
            colours = [shade[cut] for _, cut in changes]
            draw_bar(axes, *row_place(row, named), lengths, colours, gids, start=changes[0][0] - 0.5)
        axes.set_xlim(first - 0.5, last_round + 0.5)
        svg.set_ticks(axes.xaxis, whole=True)

    about = f"cuts of {len(cuts)} clients by round"
    return svg.Chart("round (number)", y_label, rows_height(len(rows), named), about, paint)


def evenly(items: Sequence[Item], most: int) -> Sequence[Item]:
    """Return at most `most` of the items, at even distances, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def row_place(row: int, named: bool = True) -> tuple[float, float]:
    """Return the middle and the height of a row's bar."""
    return (row + 0.28, 0.34) if named else (row, 0.85)


def rows_height(count: int, named: bool = True) -> float:
    """Return the points that the rows take."""
    return count * (35.0 if named else max(3.0, min(12.0, 300 / count)))


def unit_of(label: str) -> str:
    """Return what stands last in the brackets of an axis' name: `s` of "time (mean, s)"."""
    return label.rpartition("(")[2].rstrip(")").rpartition(", ")[2]


def prepare_rows(axes: Any, rows: Sequence[tuple[str, str]], named: bool = True) -> None:
    """Make axes whose row i lies around y = i: label and note above its bar, or thin rows with numbers."""
    axes.set_ylim(len(rows) + 0.55, 0.5)
    axes.grid(visible=not named, axis="x")
    axes.grid(visible=False, axis="y")
    svg.set_ticks(axes.yaxis, whole=True)
    if named:
        axes.set_yticks([])
    for row, (label, note) in enumerate(rows if named else (), start=1):
        shown = svg.shorten(label, svg.WIDTH - 36 - text_width(note, svg.FONT))
        for x, side, text, colour in ((0, "left", shown, INK), (1, "right", note, SOFT)):
            gid = title(label) if text not in (label, note) else None
            drawn = axes.text(
                x, row - 0.02, text, ha=side, color=colour, gid=gid, transform=axes.get_yaxis_transform()
            )
            drawn.set_in_layout(False)
