"""Charts of one width: in the page as SVG in colours of its style sheet, with values on hovering."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter, StrMethodFormatter

from splitft.common.figures import (
    BASE,
    GRID,
    INK,
    OTHERS,
    PIECES,
    SOFT,
    VARIANTS,
    printable,
    style,
    text_width,
)
from splitft.tools.report.charts.marks import AXIS, Drawn, page_svg, read_marks

WIDTH = 360.0  # points of every chart; about the pixels of a phone's column
FONT = 13.0
AROUND = 76.0  # points above and below the axes: both names and the ticks
LOG_FROM = 5.0  # a scale turns logarithmic where its largest value is this many times the smallest
CARD = "#ffffff"  # what charts lie on
COLOURS = {  # of the style sheet
    **{f"v{i}": colour for i, colour in enumerate(VARIANTS)},
    **{f"p{i}": colour for i, colour in enumerate([*PIECES, OTHERS])},
    **{"ink": INK, "soft": SOFT, "grid": GRID, "base": BASE, "card": CARD},
}
_NAMES = {colour: name for name, colour in COLOURS.items()}


def paint(colour: str) -> str:
    """Return a colour as the page's style sheet has it, in light and in dark."""
    return f"var(--{_NAMES[colour]})" if colour in _NAMES else colour


@dataclass(frozen=True)
class Chart:
    """One chart, drawn where it is wanted: alone for the page, beside others for a figure.

    height: points of the axes. description: for those who cannot see it. paint: draws it onto axes.
    """

    x_label: str
    y_label: str
    height: float
    description: str
    paint: Callable[[Any], None]

    @cached_property
    def figure(self) -> Figure:
        """The chart alone, all of it in its place."""
        size = (WIDTH / 72, (self.height + AROUND) / 72)
        with style(FONT):
            return self._placed(Figure(figsize=size, layout="constrained", frameon=False))

    def _placed(self, figure: Figure) -> Figure:
        axes = figure.subplots()
        figure.suptitle(shorten(self.y_label, WIDTH), x=0, ha="left", gid=AXIS)
        figure.supxlabel(shorten(self.x_label, WIDTH), x=1, ha="right", gid=AXIS)
        self._draw(axes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scripts that the font lacks
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
        return figure

    @property
    def size(self) -> tuple[float, float]:
        """Its width and height in points."""
        return WIDTH, self.height + AROUND

    @cached_property
    def marks(self) -> list[Drawn]:
        """Its paths and texts."""
        with style(FONT):
            return read_marks(self.figure)

    def svg(self) -> Markup:
        """Return it as an element of the page."""
        return page_svg(self.marks, self.size, self.description, paint, shorten)

    def draw_at(self, figure: Figure, left: float, top: float) -> None:
        """Draw it onto a larger figure, as it is alone; left, top: points from corner to corner."""
        width, height = (72 * inches for inches in figure.get_size_inches())
        own_height = self.height + AROUND
        own = self.figure.axes[0].get_position()
        below = height - top - own_height
        place = (
            left + own.x0 * WIDTH,
            below + own.y0 * own_height,
            own.width * WIDTH,
            own.height * own_height,
        )
        shares = (place[0] / width, place[1] / height, place[2] / width, place[3] / height)
        self._draw(figure.add_axes(shares))
        for label, x, y, across, up in (
            (self.y_label, left / width, 1 - (top + 3) / height, "left", "top"),
            (self.x_label, (left + WIDTH) / width, (below + 3) / height, "right", "bottom"),
        ):
            figure.text(x, y, shorten(label, WIDTH), ha=across, va=up, color=INK, gid=AXIS)

    def _draw(self, axes: Any) -> None:
        axes.patch.set_visible(False)
        axes.margins(x=0, y=0.05)
        axes.tick_params(axis="x", pad=8)  # below the lowest number of the other axis
        self.paint(axes)


def far_apart(low: float, high: float) -> bool:
    """Whether an axis with these values should be logarithmic."""
    return low > 0 and high >= LOG_FROM * low


def axis_label(name: str, unit: str, log: bool) -> str:
    """Return the name of an axis, with its unit in brackets."""
    return f"{name} ({unit}{', log scale' if log else ''})"


def set_ticks(axis: Any, whole: bool = False, log: bool = False) -> None:
    """Set the scale, and as many ticks as fit beside each other, at round values; after all is drawn.

    whole: At whole numbers only.
    """
    if log:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        low, high = sorted(axis.get_view_interval())
        steps = (1, 2, 5) if high < 30 * low else (1, 3) if high < 1000 * low else (1,)
        axis.set_major_locator(LogLocator(subs=steps, numticks=5))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
        return
    axis.set_major_locator(MaxNLocator(integer=whole, min_n_ticks=1, steps=(1, 2, 2.5, 5, 10)))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}") if whole else ScalarFormatter(useOffset=False))
    if not whole:
        axis.get_major_formatter().set_scientific(False)
    for most in (5, 4, 3, 2, 1):
        axis.get_major_locator().set_params(nbins=most)
        widths = [text_width(label.get_text(), FONT) + 10 for label in axis.get_ticklabels()]
        if axis.axis_name == "y" or sum(widths) < WIDTH - 30:
            break


def shorten(text: str, room: float) -> str:
    """Return the text, with an ellipsis where it takes more than `room` points."""
    text = printable(text)
    if text_width(text[:200], FONT) <= room and len(text) <= 200:
        return text
    text = text[:200]
    while text and text_width(text + "…", FONT) > room:
        text = text[:-1]
    return text.rstrip() + "…"
