"""Where the values of a chart stand while a pointer is on them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from splitft.common.figures import text_width

LETTERS = 13.0  # points
LINE_END = "\u2028"  # between the lines of a text: XML would make a space of a usual one
MOST_TIPS = 150  # of a chart; above, the browser shows them its own way, which takes a tenth of the bytes
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def tip_lines(text: str, width: float, shorten: Callable[[str, float], str]) -> list[str]:
    """Return the lines of a text, each no wider than the chart."""
    return [shorten(line, width - 16) for line in text.split(LINE_END)]


def tip_place(
    at: tuple[float, float], lines: Sequence[str], width: float
) -> tuple[float, float, float, float]:
    """Return left, top, width, height of a text's box about a place: above it, or below where it must."""
    wide = max(text_width(line, LETTERS) for line in lines) + 14
    high = 16.0 * len(lines) + 10
    left = min(max(at[0] - wide / 2, 0.0), max(width - wide, 0.0))
    top = at[1] - high - 9
    return left, at[1] + 9 if top < 0 else top, wide, high


def center(path: str) -> tuple[float, float]:
    """Return the middle of a path of straight lines."""
    numbers = list(map(float, _NUMBER.findall(path)))
    xs, ys = numbers[::2], numbers[1::2]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
