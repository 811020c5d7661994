"""Figures as inline SVG of one width, in colours of the page's style sheet, with values on hovering."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree  # nosec B405 # reads what matplotlib wrote

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter, StrMethodFormatter

from splitft.common.figures import BASE, GRID, INK, OTHERS, PIECES, SOFT, VARIANTS, printable, text_width

WIDTH = 360.0  # points of every chart; about the pixels of a phone's column
FONT = 13.0
AROUND = 76.0  # points above and below the axes: both names and the ticks
LOG_FROM = 5.0  # a scale turns logarithmic where its largest value is this many times the smallest
COLOURS = {  # of the style sheet
    **{f"v{i}": colour for i, colour in enumerate(VARIANTS)},
    **{f"p{i}": colour for i, colour in enumerate([*PIECES, OTHERS])},
    **{"ink": INK, "soft": SOFT, "grid": GRID, "base": BASE},
}
_NAMES = {colour: name for name, colour in COLOURS.items()}
_AXIS = "axis"  # gid of an axis' name
_TITLE = "title "  # gid of what shows a text on hovering
_KEPT = re.compile(r"(d|x|y|text-anchor|fill|stroke)(-|$)|opacity")  # attributes of the page's elements


def paint(colour: str) -> str:
    """Return a colour as the page's style sheet has it, in light and in dark."""
    return f"var(--{_NAMES[colour]})" if colour in _NAMES else colour


def new_chart(x_label: str, y_label: str, height: float) -> tuple[Figure, Any]:
    """Return a figure and its axes, `height` points high; y's name stands above, x's below."""
    size = (WIDTH / 72, (height + AROUND) / 72)
    figure = Figure(figsize=size, layout="constrained", frameon=False)
    axes = figure.subplots()
    axes.patch.set_visible(False)
    axes.margins(x=0, y=0.05)
    axes.tick_params(axis="x", pad=8)  # below the lowest number of the other axis
    figure.suptitle(y_label, x=0, ha="left", gid=_AXIS)
    figure.supxlabel(x_label, x=1, ha="right", gid=_AXIS)
    return figure, axes


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


def title(text: str) -> str:
    """Return the gid of an artist that shows a text on hovering."""
    return _TITLE + printable(text)


def inline_svg(figure: Figure, description: str) -> Markup:
    """Return a figure as <svg>, of paths and texts alone; the description is for those who cannot see it."""
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripts that the font lacks: the browser's has them
        figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = ElementTree.fromstring(file.getvalue())  # nosec B314 # matplotlib wrote it
    marks = []
    for group in drawn.iter("{http://www.w3.org/2000/svg}g"):
        gid = group.get("id", "")
        about = [_element("title", {}, gid.removeprefix(_TITLE))] if gid.startswith(_TITLE) else []
        for part in group:
            kind = part.tag.rpartition("}")[2]
            if kind in ("path", "text"):
                own = {"class": _AXIS} if gid == _AXIS else {}
                marks.append(_element(kind, own | _attributes(part), part.text or "", *about))
    shown = {"class": "chart", "viewBox": drawn.get("viewBox", ""), "role": "img"}
    return _element("svg", shown | {"aria-label": printable(description)}, *marks)


def _element(tag: str, attributes: Mapping[str, str], *children: str) -> Markup:
    """Return an element; all but Markup is escaped."""
    written = Markup("").join(Markup(' {}="{}"').format(*item) for item in attributes.items())
    return Markup("<{0}{1}>{2}</{0}>").format(tag, written, Markup("").join(children))


def _attributes(part: ElementTree.Element) -> dict[str, str]:
    """Style as attributes, places to a tenth of a point."""
    found = dict(part.attrib)
    found |= dict(item.split(": ", 1) for item in found.pop("style", "").split("; ") if item)
    for name in ("d", "x", "y"):
        if name in found:
            found[name] = re.sub(r"(\.\d)\d+", r"\1", found[name]).replace(" \n", "").strip()
    return {name: paint(value) for name, value in found.items() if _KEPT.match(name)}
