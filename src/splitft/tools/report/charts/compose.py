"""Several charts as one figure with its legend: what is saved to a file, for a talk or a paper."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D

from splitft.common.figures import INK, SOFT, printable, style, text_width, variant_colour, variant_dashes
from splitft.tools.report.charts.marks import file_svg, read_marks
from splitft.tools.report.charts.pixels import DOTS, few_colours, pixels
from splitft.tools.report.charts.svg import FONT, WIDTH, Chart, shorten

Pieces = Sequence[tuple[str, str]]  # name and #colour of what bars consist of
Lines = Sequence[tuple[str, int]]  # name and number of each variant
Rows = Sequence[Sequence[tuple[str, Chart]]]  # of captions and charts
MOST_COLUMNS = 3
ROOM = 14.0  # points around all, and between two charts
ROW, MARK, APART = 21.0, 30.0, 20.0  # points of a legend: a line, a swatch, room between two entries


class Composed:
    """Several charts as one figure: heading, notes and legend above, then rows of charts with captions."""

    def __init__(
        self,
        rows: Rows,
        pieces: Pieces = (),
        lines: Lines = (),
        heading: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        width = max(map(len, rows)) * (WIDTH + ROOM) + ROOM
        self._heading = shorten(heading, width - 2 * ROOM)
        self._notes = [line for note in notes for line in wrapped(note, width - 2 * ROOM)]
        entries = [(name, colour, None) for name, colour in pieces]
        self._legend = _legend_rows([*entries, *((name, None, number) for name, number in lines)], width)
        above = bool(heading) + len(self._notes) + len(self._legend)
        top = ROW * above + ROOM * (1.5 if above else 1.0)
        self._placed: list[tuple[float, float, str, Chart]] = []  # left and top of caption and chart
        for row in rows:
            for column, (caption, chart) in enumerate(row):
                self._placed.append((ROOM + column * (WIDTH + ROOM), top, caption, chart))
            caption_height = ROW if any(caption for caption, _ in row) else 0.0
            top += caption_height + max(chart.size[1] for _, chart in row) + ROOM
        self._size = width, top

    def svg(self, description: str) -> str:
        """Return it as the text of an SVG file."""
        with style(FONT):
            head = read_marks(self._head())
        charts = [(left, top + (ROW if text else 0), chart.marks) for left, top, text, chart in self._placed]
        return file_svg([(0.0, 0.0, head), *charts], self._size, description, FONT)

    def png(self, dots: int = DOTS) -> bytes:
        """Return it as a PNG of few colours, with `dots` an inch."""
        with style(FONT):
            whole = pixels(self._head(), dots)
            for left, top, caption, chart in self._placed:
                place = (left, top + (ROW if caption else 0))
                whole.alpha_composite(
                    pixels(chart.figure, dots), tuple(round(at * dots / 72) for at in place)
                )
        return few_colours(whole, dots)

    def pdf(self) -> bytes:
        """Return it as a PDF with its fonts inside."""
        file = io.BytesIO()
        with style(FONT), rc_context({"pdf.fonttype": 42}), warnings.catch_warnings():  # what publishers take
            warnings.simplefilter("ignore")  # labels in scripts that the font lacks
            figure = self._head()
            for left, top, caption, chart in self._placed:
                chart.draw_at(figure, left, top + (ROW if caption else 0))
            figure.savefig(file, format="pdf", metadata={"CreationDate": None})
        return file.getvalue()

    def _head(self) -> Figure:
        """All but the charts."""
        width, height = self._size
        figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
        _draw_head(figure, self._heading, self._notes, self._legend, height)
        for left, top, caption, _ in self._placed:
            if caption:
                told = shorten(caption, 0.9 * WIDTH)
                figure.text(left / width, 1 - (top + 2) / height, told, va="top", color=INK, weight="bold")
        return figure


def in_rows(charts: Sequence[tuple[str, Chart]], columns: int = MOST_COLUMNS) -> Rows:
    """Return charts in rows of so many."""
    return [charts[start : start + columns] for start in range(0, len(charts), columns)]


def wrapped(text: str, room: float) -> list[str]:
    """Return a text in lines of at most `room` points, parted between words."""
    lines: list[str] = []
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, FONT) <= room:
            lines[-1] = longer
        else:
            lines.append(shorten(word, room))
    return lines


def _legend_rows(
    entries: Sequence[tuple[str, str | None, int | None]], width: float
) -> list[list[tuple[float, str, str | None, int | None]]]:
    """Return the lines of a legend: entries with their places, none of them cut."""
    rows: list[list[tuple[float, str, str | None, int | None]]] = []
    at = width
    for name, colour, number in entries:
        name = shorten(name, width - 2 * ROOM - MARK)
        wide = MARK + text_width(name, FONT)
        if at + wide > width - ROOM:
            rows.append([])
            at = ROOM
        rows[-1].append((at, name, colour, number))
        at += wide + APART
    return rows


def _draw_head(figure: Figure, heading: str, notes: Sequence[str], rows: Any, height: float) -> None:
    """Draw heading, notes and legend, at points from the figure's upper left."""
    to_points = Affine2D().scale(1, -1).translate(0, height).scale(1 / 72) + figure.dpi_scale_trans
    own: dict[str, Any] = {"transform": to_points}
    at = ROOM
    if heading:
        figure.text(ROOM, at + ROW / 2, heading, va="center_baseline", color=INK, weight="bold", **own)
        at += ROW
    for note in notes:
        figure.text(ROOM, at + ROW / 2, note, va="center_baseline", color=SOFT, **own)
        at += ROW
    for row in rows:
        middle = at + ROW / 2
        for x, name, colour, number in row:
            if number is None:
                corner = (x + 12, middle - 6)
                figure.add_artist(Rectangle(corner, 12, 12, color=colour, lw=0, **own))
            else:
                look = {"color": variant_colour(number), **own}
                line = Line2D([x, x + 24], [middle] * 2, lw=2, ls=variant_dashes(number), **look)
                dot = Line2D([x + 12] * 2, [middle] * 2, lw=6.8, solid_capstyle="round", **look)
                pixel_dot = Line2D([x + 12], [middle], lw=0, marker="o", ms=6.8, mew=0, **look)
                for artist in (line, dot, pixel_dot):
                    figure.add_artist(artist)
            figure.text(x + MARK, middle, name, va="center_baseline", color=INK, **own)
        at += ROW
