"""Spans of a text to redact: patterns, terms, marks of a row's own; and the text without them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Span = tuple[int, int]  # [start, end) in characters
Finder = Callable[[str], Iterable[Span]]
MARK = "\ufdd0"  # in the place of a span: a noncharacter of Unicode, which no text has to hold
_WORD = re.compile(r"\w+|[^\w\s]")


def pattern_finder(patterns: Sequence[str]) -> Finder:
    """Return a finder of what regular expressions match."""
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda text: [found.span() for pattern in compiled for found in pattern.finditer(text)]


def term_finder(terms: Iterable[str]) -> Finder:
    """Return a finder of terms: whole words, whatever their case and the white space between them.

    The longest term that begins at a word is found.
    """
    by_first: dict[str, set[tuple[str, ...]]] = {}
    for term in terms:
        if words := tuple(word.casefold() for word in _WORD.findall(term)):
            by_first.setdefault(words[0], set()).add(words)
    ordered = {first: sorted(own, key=len, reverse=True) for first, own in by_first.items()}

    def find(text: str) -> list[Span]:
        places = [found.span() for found in _WORD.finditer(text)]
        words = [text[start:end].casefold() for start, end in places]
        spans = []
        for i, word in enumerate(words):
            for term in ordered.get(word, ()):
                if tuple(words[i : i + len(term)]) == term:
                    spans.append((places[i][0], places[i + len(term) - 1][1]))
                    break
        return spans

    return find


def marked_spans(value: Any) -> list[Span]:
    """Return the spans that a cell of `redact.spans_column` holds: a list of pairs, or the same as JSON text.

    No value, or an empty text: none. Raises ValueError for anything else.
    """
    if isinstance(value, str):
        value = json.loads(value) if value.strip() else []
    spans = []
    for pair in [] if value is None else value:
        start, end = pair
        if type(start) is not int or type(end) is not int:
            raise ValueError(f"{pair!r} is no pair of integers")
        spans.append((start, end))
    return spans


def checked(spans: Iterable[Any], length: int) -> list[Span]:
    """Return spans as pairs of integers. Raises ValueError where one does not lie in a text so long."""
    found = []
    for span in spans:
        start, end = (int(place) for place in span)
        if not 0 <= start <= end <= length:
            raise ValueError(f"[{start}, {end}] does not lie in a text of {length} characters")
        found.append((start, end))
    return found


def merged(text: str, spans: Iterable[Span]) -> list[Span]:
    """Return spans in order, none empty; those that touch or overlap are one.

    A blank before a span belongs to it: else a lone blank would stand before what is in its place.
    """
    found: list[Span] = []
    for start, end in sorted(spans):
        if start == end:
            continue
        if start and text[start - 1] == " ":
            start -= 1
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def cut_out(text: str, spans: Sequence[Span]) -> tuple[str, list[str]]:
    """Return a text with MARK in the place of each span, and the spans' texts. spans: as of `merged`."""
    parts, removed, place = [], [], 0
    for start, end in spans:
        parts += [text[place:start], MARK]
        removed.append(text[start:end])
        place = end
    return "".join([*parts, text[place:]]), removed


def within(spans: Iterable[Span], start: int, end: int) -> list[Span]:
    """Return the parts of spans that lie in [start, end), counted from start."""
    clipped = [(max(low, start) - start, min(high, end) - start) for low, high in spans]
    return [(low, high) for low, high in clipped if low < high]
