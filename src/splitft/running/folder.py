"""The output folder of a run: opened once, never written over."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitft.common.files import writable_folder, write_atomically
from splitft.errors import JobError, OutputError
from splitft.history import RoundRecord
from splitft.job import Job, load_job

if TYPE_CHECKING:
    from splitft.common.checkpoint import Checkpoint


HISTORY, DECISIONS, SUMMARY, JOB, PARTITION = (
    "history.jsonl", "decisions.jsonl", "summary.json", "job.yaml", "partition.json"
)  # fmt: skip
SIGNS = (  # of a run in a folder
    JOB, HISTORY, SUMMARY, "adapter", "adapters", DECISIONS, "checkpoints", "perplexity.png", "partition.png"
)  # fmt: skip
FREE = ("output_dir", "save_every", "save_total_limit", "use_cpu", "clients")  # need not be what they were


@dataclass(frozen=True)
class Opened:
    """The folder of a run, and where it goes on. complete: the run is finished, nothing is left to do."""

    folder: Path
    checkpoint: Checkpoint | None = None
    complete: bool = False


def open_run(job: Job, *, resume: bool) -> Opened:
    """Open the folder of a new run or, with `resume`, of one that was cut off, if there is one.

    Raises OutputError where it cannot be written, holds another run, or has no checkpoint that is whole, and
    JobError where the run in it is of another job.
    """
    folder = Path(job.output_dir).expanduser()
    going_on = resume and (folder / JOB).exists()
    if not going_on and (found := [name for name in SIGNS if (folder / name).exists()]):
        go_on = "go on with it (--resume), " if "checkpoints" in found else ""
        raise OutputError(
            f"output_dir {folder} already holds a run ({', '.join(found)}); {go_on}"
            "choose another with output_dir=FOLDER, or move that one away"
        )
    writable_folder(folder, "output_dir")
    if not going_on:
        return Opened(folder)
    was, now = load_job(folder / JOB).model_dump(), job.model_dump()
    changed = [
        key for key in was if key not in FREE and was[key] != now[key] and not _settles(was[key], now[key])
    ]
    if changed:
        told = "; ".join(f"{key}: {was[key]!r}, now {now[key]!r}" for key in changed)
        raise JobError(
            f"the run in {folder} is of another job ({told}): go on with "
            f"`splitft run {folder / JOB} --resume`, or choose another output_dir"
        )
    if is_complete(folder):
        return Opened(folder, complete=True)
    from splitft.common.checkpoint import FOLDER, load_checkpoint

    return Opened(folder, load_checkpoint(folder / FOLDER))


def _settles(was: Any, now: Any) -> bool:
    """Whether a run has put a value, which its folder holds, in the place of `auto`."""
    return bool(now == "auto" and (was == "off" or isinstance(was, bool)))


def is_complete(folder: Path) -> bool:
    """Whether a run has come to its end."""
    return read_summary(folder).get("interrupted") is False


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary of a run; empty where there is none that can be read."""
    try:
        summary: Any = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def take_back(folder: Path, round_: int) -> list[RoundRecord]:
    """Shorten the history and the decisions of a run to those up to a round; return the history."""
    for name in (HISTORY, DECISIONS):
        if (folder / name).exists():
            lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # a crash may have torn the last one
            kept = [line for line in whole if json.loads(line)["round"] <= round_]
            write_atomically(folder / name, "".join(kept))
    return read_records(folder)


def read_records(folder: Path) -> list[RoundRecord]:
    """Return the history of a run."""
    path = folder / HISTORY
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [RoundRecord.from_json(line) for line in lines]
