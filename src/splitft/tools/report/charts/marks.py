"""Figures of matplotlib as elements: paths and texts, in the page's colours or in their own."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree  # nosec B405 # reads what matplotlib wrote

from markupsafe import Markup
from matplotlib.figure import Figure

from splitft.common.figures import INK, printable
from splitft.tools.report.charts.hover import LINE_END, MOST_TIPS, center, tip_lines, tip_place

AXIS = "axis"  # gid of an axis' name
_TITLE = "title "  # gid of what shows a text on hovering
_HIT = "hit "  # gid of a place that shows a text on hovering, and nothing else
_KEPT = re.compile(r"(d|x|y|text-anchor|fill|stroke)(-|$)|opacity|font-weight")  # attributes of elements
FONTS = "Arial, Helvetica, Liberation Sans, sans-serif"


@dataclass(frozen=True)
class Drawn:
    """A path or a text. said: shows on hovering. seen: whether it shows itself."""

    kind: str
    attributes: dict[str, str]
    text: str
    said: str
    seen: bool


def title(*lines: str) -> str:
    """Return the gid of an artist that shows these lines on hovering."""
    return _TITLE + LINE_END.join(map(printable, lines))


def hit(*lines: str) -> str:
    """Return the gid of an artist that is not seen and shows these lines on hovering."""
    return title(*lines).replace(_TITLE, _HIT, 1)


def read_marks(figure: Figure) -> list[Drawn]:
    """Return the paths and texts of a figure, in points from its upper left."""
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripts that the font lacks: the browser's has them
        figure.savefig(file, format="svg", metadata={"Date": None})
    return list(_read(ElementTree.fromstring(file.getvalue())))  # nosec B314 # matplotlib wrote it


def page_svg(
    marks: Iterable[Drawn],
    size: tuple[float, float],
    description: str,
    paint: Callable[[str], str],
    shorten: Callable[[str, float], str],
) -> Markup:
    """Return marks as an element of the page; the description is for those who cannot see it.

    Above all marks lie places that show their texts on hovering; where there are very many, a browser's own.
    """
    about = [mark for mark in marks if mark.said and mark.kind == "path"]
    tips = [_tip(mark, size[0], shorten) for mark in about] if len(about) <= MOST_TIPS else []
    drawn = []
    for mark in marks:
        if mark.seen:
            told = [] if (tips and mark.kind == "path") or not mark.said else [_native(mark.said)]
            own = {name: paint(value) for name, value in mark.attributes.items()}
            drawn.append(_element(mark.kind, own, mark.text, *told))
    shown = {"class": "chart", "viewBox": f"0 0 {size[0]:g} {size[1]:g}", "role": "img"}
    return _element("svg", shown | {"aria-label": printable(description)}, *drawn, *tips)


def file_svg(
    placed: Sequence[tuple[float, float, Iterable[Drawn]]],
    size: tuple[float, float],
    description: str,
    letters: float,
) -> str:
    """Return marks, each list at its place, as the text of an SVG file: on white, with texts as texts."""
    width, height = (f"{length:g}" for length in size)
    shown = {
        "xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}", "width": f"{width}pt",
        "height": f"{height}pt", "font-family": FONTS, "font-size": f"{letters:g}", "fill": INK,
    }  # fmt: skip
    back = _element("rect", {"width": width, "height": height, "fill": "#ffffff"})
    groups = []
    for x, y, marks in placed:
        drawn = [
            _element(mark.kind, mark.attributes, mark.text, *([_native(mark.said)] if mark.said else []))
            for mark in marks
            if mark.seen
        ]
        groups.append(_element("g", {"transform": f"translate({x:g} {y:g})"}, *drawn))
    return str(_element("svg", shown, _element("title", {}, printable(description)), back, *groups)) + "\n"


def _read(drawn: ElementTree.Element) -> Iterator[Drawn]:
    for group in drawn.iter("{http://www.w3.org/2000/svg}g"):
        gid = group.get("id", "")
        said = gid.removeprefix(_TITLE).removeprefix(_HIT) if gid.startswith((_TITLE, _HIT)) else ""
        for part in group:
            kind = part.tag.rpartition("}")[2]
            if kind in ("path", "text"):
                own = {"class": AXIS} if gid == AXIS else {}
                attributes = own | _attributes(part)
                yield Drawn(kind, attributes, part.text or "", said, not gid.startswith(_HIT))


def _native(said: str) -> Markup:
    return _element("title", {}, said.replace(LINE_END, ": "))


def _tip(mark: Drawn, width: float, shorten: Callable[[str, float], str]) -> Markup:
    """Return a place over a mark, and the text that shows while a pointer is on it."""
    path = mark.attributes["d"]
    lines = tip_lines(mark.said, width, shorten)
    x, y, wide, high = tip_place(center(path), lines, width)
    box = _element("path", {"d": f"M{x:.0f} {y:.0f}h{wide:.0f}v{high:.0f}h-{wide:.0f}z"})
    texts = [
        _element("text", {"x": f"{x + 7:.0f}", "y": f"{y + 17 + 16 * row:.0f}"}, line)
        for row, line in enumerate(lines)
    ]
    dot = "stroke-linecap" in mark.attributes
    over = _element("path", {"class": "hit dot" if dot else "hit", "d": path})
    return _element("g", {"class": "on"}, over, _element("g", {"class": "tip"}, box, *texts))


def _element(tag: str, attributes: Mapping[str, str], *children: str) -> Markup:
    """Return an element; all but Markup is escaped."""
    written = Markup("").join(Markup(' {}="{}"').format(*item) for item in attributes.items())
    return Markup("<{0}{1}>{2}</{0}>").format(tag, written, Markup("").join(children))


def _attributes(part: ElementTree.Element) -> dict[str, str]:
    """Style as attributes, places to a tenth of a point."""
    found = dict(part.attrib)
    found |= dict(item.split(": ", 1) for item in found.pop("style", "").split("; ") if item)
    if found.get("font", "").startswith(("bold", "700")):
        found["font-weight"] = "bold"
    for name in ("d", "x", "y"):
        if name in found:
            found[name] = re.sub(r"(\.\d)\d+", r"\1", found[name]).replace(" \n", "").strip()
    return {name: value for name, value in found.items() if _KEPT.match(name)}
