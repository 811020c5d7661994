"""Charts with a bar for each row that shows a share, and a tick where another share lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from splitft.common.figures import INK, PIECES, draw_bar
from splitft.tools.report.charts import svg
from splitft.tools.report.charts.marks import title
from splitft.tools.report.charts.rows import (
    MOST_BARS,
    MOST_NAMED,
    evenly,
    prepare_rows,
    row_place,
    rows_height,
)


@dataclass(frozen=True)
class Share:
    """One bar. value: its length; tick: the share to compare it with; both 0 to 1. note: at its right."""

    label: str
    value: float
    tick: float
    note: str
    about: str  # shown while a pointer is on the bar


def share_chart(shares: Sequence[Share], x_label: str, y_label: str) -> svg.Chart | None:
    """Return the chart of shares in per cent, None without any; more than MOST_BARS are thinned out."""
    if not shares:
        return None
    shown = evenly(shares, MOST_BARS)
    named = len(shown) <= MOST_NAMED

    def draw(axes: Any) -> None:
        prepare_rows(axes, [(one.label, one.note) for one in shown], named)
        for row, one in enumerate(shown, start=1):
            at, height = row_place(row, named)
            draw_bar(axes, at, height, [100 * one.value], [PIECES[0]], [title(one.label, one.about)])
            axes.plot([100 * one.tick] * 2, [at - 0.7 * height, at + 0.7 * height], color=INK, lw=2)
        axes.set_xlim(0, 100)
        svg.set_ticks(axes.xaxis)

    about = f"{x_label} of {', '.join(f'{one.label} {one.note}' for one in shown[:MOST_NAMED])}"
    return svg.Chart(x_label, y_label, rows_height(len(shown), named), about, draw)
