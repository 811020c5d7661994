"""Short texts for messages and tables: errors, lists, names and large numbers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from splitft.errors import SplitFTError


def one_line(error: object) -> str:
    """An error's text on one line, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def error_line(error: Exception) -> str:
    """An error on one line, with the name of its kind unless the error is the package's own."""
    text = one_line(error)
    return text if isinstance(error, SplitFTError) else f"{type(error).__name__}: {text}"


def first_few(texts: Sequence[str], most: int, separator: str = ", ") -> str:
    """Return the first `most` texts in a line, and how many more there are."""
    more = len(texts) - most
    return separator.join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def named(names: Sequence[str], most: int = 20) -> str:
    """Return names for one line: the first ones, where there are more than twice as many as `most`."""
    return first_few(names, most) if len(names) > 2 * most else ", ".join(names)


def nearest(name: object, names: Iterable[str], before: str = "") -> str:
    """Return "did you mean NAME?" for the name that is written most alike; empty where none is."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f"{before}did you mean {near[0]}?" if near else ""


def short(text: str, length: int) -> str:
    """Return a name in at most `length` letters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def short_count(number: int) -> str:
    """Return a count in at most four characters: 950, 1.2k, 34M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.{1 if number < 10 * size else 0}f}{unit}"
    return str(number)


def plain(text: str, most: int = 2000) -> str:
    """Return another party's words as one line without control characters: no cursor moves, no clipboard."""
    return "".join(c if c.isprintable() else " " for c in text[:most])


def percent(share: float, digits: int = 0) -> str:
    """Return a share in percent: 0.5 is 50 %."""
    return f"{100 * share:.{digits}f} %"
