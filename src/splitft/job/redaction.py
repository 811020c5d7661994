"""Redaction: which parts of a row never leave the client's own memory, in its owner's words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field

from splitft.job.sections import Name, PathName, Strict, key


class RedactConfig(Strict):
    """The parts of a client's rows that are redacted before anything is computed with them."""

    patterns: list[Name] = key(
        [], "Regular expressions (Python's re): the text that they match, in any row, is redacted."
    )
    terms_file: PathName | None = key(
        None,
        "UTF-8 file with one term a line, such as names: redacted as whole words, whatever their case and "
        "the white space between them.",
    )
    spans_column: Name | None = key(
        None,
        "Column with each row's own spans to redact: [[start, end], ...] in characters of its text, or of "
        "its prompt and completion together; the end is not in it.",
    )
    rare_tokens: Annotated[int, Field(ge=0)] = key(
        0, "Redact tokens that stand at most so often in the client's own rows; 0: none."
    )
    function: Name | None = key(
        None, "A registered redactor: a function of the site's own code, from a text to its spans."
    )

    @property
    def of_texts(self) -> bool:
        """Whether parts of texts are redacted, before they are tokens."""
        return bool(self.patterns or self.terms_file or self.spans_column or self.function)

    @property
    def active(self) -> bool:
        """Whether anything is redacted."""
        return self.of_texts or self.rare_tokens > 0


def pattern_problems(patterns: Any) -> Iterator[str]:
    """Yield a problem for each pattern that is no regular expression."""
    for pattern in patterns if isinstance(patterns, Sequence) else ():
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            yield f"{pattern[:60]!r} is no regular expression: {error}"
