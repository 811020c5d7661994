"""Mistakes of real people: what they type, the exit code, and words of the one line that they get.

The list is in mistakes_researcher.py, mistakes_engineer.py and mistakes_operator.py. A text may hold

    {folder}  of the test           {run}     a finished run of two rounds
    {job}     the job file there    {busy}    a folder in which a run is at work
    {taken}   a port in use         {server}  the address of a server that asks for a secret
    {certs}   an authority with the clients north, and late, whose certificate has ended
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GONE = object()  # in the place of a value: the job has no such key
Make = Callable[[dict[str, Any], Path], object]  # changes a job, and what lies in a folder
TEXTS = [f"the people of the united states made law number {i}" for i in range(30)]


@dataclass(frozen=True)
class Mistake:
    """A command, and how it ends.

    told: words of the line. files: {name: content} in the folder. make: what else is wrong. lines: at most.
    without: modules that are not installed.
    """

    code: int
    told: tuple[str, ...]
    command: str = "run {job}"
    job: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    make: Make | None = None
    lines: int = 2  # a heading and its problem
    without: tuple[str, ...] = ()


def m(
    code: int,
    told: str,
    command: str = "run {job}",
    *,
    data: tuple[str, str | bytes] | None = None,
    files: dict[str, str | bytes] | None = None,
    make: Make | None = None,
    lines: int = 2,
    without: tuple[str, ...] = (),
    **job: Any,
) -> Mistake:
    """A row. told: its words, with " | " between. data: the job's only file, and its content."""
    if data:
        files, job = {data[0]: data[1]}, {"data_files": f"{{folder}}/{data[0]}"} | job
    contents = {name: c if isinstance(c, bytes) else c.encode() for name, c in (files or {}).items()}
    return Mistake(code, tuple(told.split(" | ")), command, job, contents, make, lines, without)


def jsonl(rows: Sequence[object], between: str = "\n") -> str:
    return between.join(map(json.dumps, rows))


def paragraphs(word: str = "") -> str:
    return "\n\n".join(f"{word} {text}".strip() for text in TEXTS)


def empty_folder(job: dict[str, Any], folder: Path) -> None:
    (folder / "empty").mkdir()


def open_folder(job: dict[str, Any], folder: Path) -> None:
    folder.chmod(0o755)
