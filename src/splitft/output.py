"""The output folder of a run: opened once, never written over."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from splitft.errors import OutputError

FILES = (
    "job.yaml",
    "history.jsonl",
    "summary.json",
    "adapter",
    "adapters",
    "decisions.jsonl",
    "checkpoints",
    "perplexity.png",
    "partition.png",
)


def check_output_dir(path: str | Path, *, new: bool = True) -> Path:
    """Return the folder, made if absent, after making sure that it is writable and, if `new`, holds no run.

    Raises OutputError. Nothing is left behind but the folder itself.
    """
    folder = Path(path).expanduser()
    found = [name for name in FILES if (folder / name).exists()] if new else []
    if found:
        go_on = "go on with it (--resume), " if "checkpoints" in found else ""
        raise OutputError(
            f"output_dir {folder} already holds a run ({', '.join(found)}); {go_on}"
            "choose another with output_dir=FOLDER, or move that one away"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"output_dir {folder} cannot be written: {reason}; choose another") from None
    return folder


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
