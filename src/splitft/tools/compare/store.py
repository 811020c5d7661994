"""The folder of a comparison: each distinct job's run once, shared by all variants that need it.

FOLDER/runs/NAME/        one run (splitft.tools.compare.plan.run_name), as `splitft run` leaves it
FOLDER/jobs/NAME.yaml    its effective job
FOLDER/logs/NAME.log     what it printed
FOLDER/unfinished/       runs that broke off without a whole checkpoint, moved away; nothing is ever deleted
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from splitft.common.checkpoint import FOLDER, load_checkpoint
from splitft.common.files import write_atomically, writing
from splitft.errors import OutputError
from splitft.job import Job, dump_job
from splitft.job.yaml import parse_yaml
from splitft.running.folder import JOB, is_complete
from splitft.tools.compare.plan import changed_key

MARKER = "made-by-compare.json"  # in every run folder that a comparison made
_ELSEWHERE = "choose another folder with --out"
State = Literal["absent", "finished", "unfinished", "foreign"]


@dataclass(frozen=True)
class Store:
    """Paths below the folder of a comparison."""

    folder: Path

    def run(self, name: str) -> Path:
        """Return the output_dir of a run."""
        return self.folder / "runs" / name

    def job(self, name: str) -> Path:
        """Return the job file that a run is started with."""
        return self.folder / "jobs" / f"{name}.yaml"

    def log(self, name: str) -> Path:
        """Return the file with what a run printed."""
        return self.folder / "logs" / f"{name}.log"


def run_state(store: Store, name: str) -> State:
    """Return the state of a run's folder; foreign: no comparison made it."""
    folder = store.run(name)
    if not os.path.lexists(folder):
        return "absent"
    if folder.is_symlink() or _marked_run(folder / MARKER) != name:
        return "foreign"
    return "finished" if is_complete(folder) else "unfinished"


def prepare_run(store: Store, name: str, job: Job) -> Path:
    """Make the run's folder and job file, and return the job file.

    An unfinished run goes on from its last whole checkpoint; without one it is moved away, and made anew.
    Raises OutputError where the folder holds a finished run, or no comparison made it.
    """
    state, folder = run_state(store, name), store.run(name)
    if state in ("foreign", "finished"):
        what = "a finished run" if state == "finished" else "something that no comparison put there"
        raise OutputError(f"{folder} holds {what}; {_ELSEWHERE}, or move it away")
    with writing(store.folder, _ELSEWHERE):
        empty = state == "absent" or {path.name for path in folder.iterdir()} == {MARKER}
        if not empty and not can_go_on(store, name, job):
            folder.rename(_free(store.folder / "unfinished", name))
        for path in (folder, store.job(name).parent, store.log(name).parent):
            path.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / MARKER, json.dumps({"run": name, "made_by": "splitft compare"}))
    dump_job(job.model_copy(update={"output_dir": str(folder)}), store.job(name))
    return store.job(name)


def can_go_on(store: Store, name: str, job: Job) -> bool:
    """Whether an unfinished run is of this very job, and has a whole checkpoint."""
    folder = store.run(name)
    asked = effective_job(store, name)
    if not (folder / JOB).is_file() or not asked or changed_key(asked, job) is not None:
        return False
    try:
        return load_checkpoint(folder / FOLDER) is not None
    except OutputError:  # all are damaged
        return False


@contextmanager
def open_store(folder: Path) -> Iterator[tuple[Store, int]]:
    """Make the folder and lock it for one comparison, until the last of its processes ends.

    Yields the store and the lock's file descriptor. Child processes that inherit it keep the lock, so that
    runs which outlive a killed comparison are not mistaken for abandoned ones. Raises OutputError.
    """
    folder = folder.expanduser()
    with writing(folder, _ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"another comparison is at work in {folder}, or its last runs are still ending; wait for it, "
                "or choose another folder with --out"
            ) from None
        yield Store(folder), lock
    finally:
        os.close(lock)


def effective_job(store: Store, name: str) -> dict[str, Any]:
    """Return the job that a run was started with, as its file has it; empty where none can be read."""
    try:
        values, _ = parse_yaml(store.job(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(values) if isinstance(values, dict) else {}


def _free(folder: Path, name: str) -> Path:
    """Return a path in the folder that is not taken."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / f"{name}-{number}" for number in itertools.count(1))
    return next(path for path in paths if not os.path.lexists(path))


def _marked_run(marker: Path) -> Any:
    try:
        return json.loads(marker.read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
