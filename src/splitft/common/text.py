"""Shrink a configuration to a copy that builds in milliseconds and keeps its kinds of blocks. (ours)"""

from __future__ import annotations


def one_line(error: object) -> str:
    """An error's text on one line, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
