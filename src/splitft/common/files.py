"""The output folder of a run: opened once, never written over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from splitft.errors import OutputError


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that readers see the old or the new one, never a part.

    Raises OutputError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with _told(path):
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file. Raises OutputError."""
    with _told(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; what was written before is complete"
        ) from None
