"""Texts for messages and pictures."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def one_line(error: object) -> str:
    """An error's text on one line, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def some(texts: Iterable[str], most: int = 3, separator: str = ", ") -> str:
    """Return the first `most` texts, and the number of the others."""
    texts = list(texts)
    more = len(texts) - most
    return separator.join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def nearest(name: object, names: Iterable[str], before: str = "") -> str:
    """Return "did you mean NAME?" for the name that is written most alike; empty where none is."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f"{before}did you mean {near[0]}?" if near else ""


def short(text: str, length: int) -> str:
    """Return a name in at most `length` letters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def count_text(number: int) -> str:
    """Return a large number in two or three digits: 1.2k, 34M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.{1 if number < 10 * limit else 0}f}{unit}"
    return str(number)
