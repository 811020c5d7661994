"""Redactors by name: functions of a site's own, from a text to the spans to redact."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

from splitft.common.registry import Registry
from splitft.common.text import error_line
from splitft.data.redaction.spans import Span, checked
from splitft.errors import JobError

Redactor = Callable[[str], Iterable[Any]]

REDACTORS: Registry[Redactor] = Registry("redactor", "register_redactor", {})


@overload
def register_redactor(name: str, function: Redactor) -> Redactor: ...
@overload
def register_redactor(name: str, function: None = None) -> Callable[[Redactor], Redactor]: ...
def register_redactor(
    name: str, function: Redactor | None = None
) -> Redactor | Callable[[Redactor], Redactor]:
    """Register a redactor as `redact.function: NAME`; without a function, a decorator.

    function: takes the text of a row, of a message's part, or of a prompt and its completion together, and
        returns the spans to redact, as (start, end) in characters; the end is not in it.

    Raises JobError for an empty name, or what cannot be called.
    """
    return REDACTORS.register(name, function)


def spans_by(name: str, text: str) -> list[Span]:
    """Return the spans that a registered redactor finds. Raises JobError that names it, and no text."""
    function = REDACTORS.find(name)
    try:
        return checked(function(text), len(text))
    except Exception as error:  # a redactor is any code
        raise JobError(f"redactor {name} failed: {error_line(error)}") from error
