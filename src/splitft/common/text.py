"""Errors of other libraries as text for a person."""

from __future__ import annotations

from splitft.errors import SplitFTError


def one_line(error: object) -> str:
    """An error's text on one line, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def error_line(error: Exception) -> str:
    """An error on one line, with the name of its kind unless the error is the package's own."""
    text = one_line(error)
    return text if isinstance(error, SplitFTError) else f"{type(error).__name__}: {text}"
