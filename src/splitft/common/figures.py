"""What all pictures share: the style, stacked bars, and colours that the colour-blind tell apart."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from splitft.common.files import writing

# Variants: Okabe and Ito (2008); in grey, dashes tell them apart. Pieces of bars: Paul Tol's light scheme, in
# an order in which neighbours differ in grey, too, the last for all others.
VARIANTS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1b2024"]
PIECES = ["#77aadd", "#eedd88", "#ee8866", "#99ddff", "#44bb99", "#ffaabb", "#aaaa00", "#bbcc33", "#b08cc9"]
OTHERS = "#d5d8da"
DASHES: list[tuple[float, ...]] = [
    (),
    (3.2, 1.6),
    (1.0, 1.4),
    (5, 1.6, 1, 1.6),
    (6, 2.4),
    (3, 1.4, 1, 1.4, 1, 1.4),
    (1.6, 1),
]
INK, SOFT, GRID, BASE = "#1b2025", "#56616b", "#e6e9eb", "#8a949c"


@contextmanager
def style(letters: float) -> Iterator[None]:
    """Make figures look alike, with no text as a formula; letters: size in points. Also a decorator."""
    from matplotlib import rc_context

    sides = {f"axes.spines.{side}": False for side in ("left", "right", "top")}
    ticks = {f"{axis}tick.{what}": 0 for axis in "xy" for what in ("major.size", "minor.size")}
    colours = {"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": BASE, "grid.color": GRID}
    colours |= {"xtick.labelcolor": SOFT, "ytick.labelcolor": SOFT}
    sizes = {"font.size": letters, "figure.titlesize": letters, "figure.labelsize": letters}
    grid = {"axes.grid": True, "axes.axisbelow": True}
    legend = {"legend.frameon": False, "legend.handlelength": 1.0}
    text = {"text.parse_math": False, "svg.fonttype": "none"}
    with rc_context({**sides, **ticks, **colours, **sizes, **grid, **legend, **text}):
        yield


def displayed_figure(**options: Any) -> Any:
    """Return a matplotlib Figure that a notebook shows, also where pyplot was never imported."""
    from matplotlib.figure import Figure

    class _Displayed(Figure):
        def _repr_png_(self) -> bytes:
            file = BytesIO()
            self.savefig(file, format="png", dpi=100)
            return file.getvalue()

    return _Displayed(**options)


def save_png(figure: Any, path: Path | str) -> None:
    """Write a figure as PNG, or raise OutputError."""
    with writing(path, "free the disk, or choose another output_dir"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels in scripts that the font lacks
        figure.savefig(path, format="png", dpi=130)


def variant_colour(number: int) -> str:
    """Return the #colour of a line of this number; they repeat."""
    return VARIANTS[number % len(VARIANTS)]


def variant_dashes(number: int) -> Any:
    """Return the dashes of a line of this number, in its widths: so that lines differ in grey, too."""
    dashes = DASHES[dashes_number(number)]
    return (0, dashes) if dashes else "-"


def dashes_number(number: int) -> int:
    """Return the place in DASHES of a line of this number; a colour that returns has others."""
    return (number + number // len(VARIANTS)) % len(DASHES)


def draw_dot(axes: Any, x: float, y: float, size: float, colour: str, gid: str | None = None) -> None:
    """Draw a dot: a line without length, with round ends; pixels need a marker beside it."""
    axes.plot([x, x], [y, y], color=colour, lw=size, solid_capstyle="round", gid=gid)
    if not (gid or "").startswith("hit "):
        axes.plot(x, y, color=colour, lw=0, marker="o", ms=size, mew=0, clip_on=False)


def ordered(count: int) -> list[str]:
    """Return `count` colours from light to dark, as #rrggbb, for what has an order; grey shows it too."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis_r"](0.06 + 0.86 * i / max(count - 1, 1))) for i in range(count)]


def class_colours(count: int, has_order: bool) -> list[str]:
    """Return a colour for each class of a data set; without an order the tenth and later are grey."""
    return ordered(count) if has_order else [*PIECES, *[OTHERS] * count][:count]


def draw_bar(
    axes: Any,
    place: float,
    height: float,
    widths: Sequence[float],
    colours: Sequence[str],
    gids: Sequence[str] | None = None,
    start: float = 0.0,
) -> None:
    """Draw one stacked bar, centred at `place`."""
    from matplotlib.patches import Rectangle

    for i, (width, colour) in enumerate(zip(widths, colours, strict=True)):
        if width > 0:
            corner, gid = (start, place - height / 2), gids[i] if gids else None
            axes.add_patch(Rectangle(corner, width, height, color=colour, lw=0, gid=gid))
        start += width


def printable(text: str) -> str:
    """Return a text on one line, without characters that no picture can hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


@lru_cache(maxsize=8192)
def text_width(text: str, letters: float) -> float:
    """Return the points that a text takes; the font is broader than those of browsers."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    broad = "".join("W" if unicodedata.east_asian_width(letter) in "WF" else letter for letter in text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        width, _, _ = text_to_path.get_text_width_height_descent(
            broad, FontProperties(size=letters), ismath=False
        )
    return float(width)
