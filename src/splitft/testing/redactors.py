"""The contract of a redactor."""

from __future__ import annotations

from collections.abc import Sequence

from splitft.data.redaction.registry import REDACTORS, Redactor, spans_by
from splitft.testing.contract import contract, require

_NAME = "redactor under test"
_TEXT = "Ada Lovelace was born in the house of 13 Piccadilly Terrace on 10 December 1815."


def check_redactor(function: Redactor, text: str = _TEXT, hidden: Sequence[str] = ()) -> None:
    """Check a redactor as it is registered: spans lie in the text, and are the same every time.

    text: a text of your rows. hidden: parts of it that must lie in the spans.
    """
    REDACTORS.register(_NAME, function)
    with contract():
        one, other = spans_by(_NAME, text), spans_by(_NAME, text)
        spans_by(_NAME, "")
    require(one == other, "the redactor found other spans in the same text: a resumed run has other rows")
    for part in hidden:
        start = text.find(part)
        covered = set().union(*(range(low, high) for low, high in one))
        require(
            start >= 0 and covered >= set(range(start, start + len(part))),
            f"the redactor leaves a part of {part!r} in the text",
        )
