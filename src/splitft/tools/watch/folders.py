"""The runs that a page shows: folders of runs, and runs in folders above them, also those that come later."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from splitft.errors import JobError

SIGNS = ("job.yaml", "history.jsonl", "live.json", "members.json", ".lock")  # of a run in a folder
DEPTH = 4  # of folders that are searched for runs
MOST_RUNS = 60


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, or one that begins."""
    try:
        return any((folder / name).is_file() for name in SIGNS)
    except OSError:  # nobody may look into it
        return False


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Return the runs in these folders and below them, each once, in order.

    A folder that is a run itself is not searched further.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        for path in [folder] if is_run(folder) else _below(folder, DEPTH):
            found.setdefault(path.resolve(), path)
    return list(found.values())[:MOST_RUNS]


def check_folders(folders: Sequence[Path]) -> None:
    """Raise JobError where a folder holds no run, or all of them hold too many."""
    for folder in folders:
        if not folder.is_dir():
            raise JobError(f"{folder} is no folder; give the output_dir of a run, or a folder of runs")
        if not find_runs([folder]):
            raise JobError(f"{folder} holds no run; give the output_dir of a run, or a folder of runs")
    if len(found := find_runs(folders)) >= MOST_RUNS:
        raise JobError(f"there are {len(found)} runs or more: a page shows fewer than {MOST_RUNS}; name some")


def names_of(runs: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each run: its folder's, with the folders above where two have the same."""
    resolved = {path: path.resolve().parts for path in runs}
    length, names = 1, {path: parts[-1] for path, parts in resolved.items()}
    while len(set(names.values())) < len(names):
        length += 1
        names = {path: "/".join(parts[-length:]) for path, parts in resolved.items()}
    return names


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
            continue
        path = Path(entry.path)
        if is_run(path):
            yield path
        elif depth > 1:
            yield from _below(path, depth - 1)
