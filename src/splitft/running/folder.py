"""The output folder of a run: opened once, never written over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitft.common.files import write_atomically
from splitft.common.lock import lock_folder
from splitft.engines.network.membership import MEMBERS
from splitft.errors import JobError, OutputError
from splitft.history import RoundRecord
from splitft.job import Job, load_job
from splitft.job.dp import DPConfig
from splitft.job.report import ReportSettings

if TYPE_CHECKING:
    from splitft.common.checkpoint import Checkpoint


HISTORY, DECISIONS, SUMMARY, JOB, PARTITION = (
    "history.jsonl", "decisions.jsonl", "summary.json", "job.yaml", "partition.json"
)  # fmt: skip
SIGNS = (  # of a run in a folder
    JOB, HISTORY, SUMMARY, "adapter", "adapters", DECISIONS, "checkpoints", "perplexity.png", "partition.png"
)  # fmt: skip
# Need not be what they were; `check_rounds` has its own rule for the three of rounds. Of `network`,
# the clients must.
FREE = (
    *ReportSettings.model_fields, "output_dir", "save_every", "save_total_limit", "use_cpu", "clients",
    "rounds", "max_steps", "num_train_epochs", "privacy",
)  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """The folder of a run, and where it goes on.

    complete: the run is finished, nothing is left to do. rounds: of the run in the folder, 0 for a new one.
    diverged: its training diverged in the round after the last recorded one.
    """

    folder: Path
    checkpoint: Checkpoint | None = None
    complete: bool = False
    rounds: int = 0
    diverged: bool = False


@contextmanager
def open_run(job: Job, *, resume: bool) -> Iterator[Opened]:
    """Lock the folder of a new run or, with `resume`, of one that was cut off or is to be extended.

    Raises OutputError where it cannot be written, another process uses it, it holds another run, or has no
    checkpoint that is whole, and JobError where the run in it is of another job.
    """
    folder = Path(job.output_dir).expanduser()
    with lock_folder(folder, "output_dir"):
        yield _opened(job, folder, resume)


def _opened(job: Job, folder: Path, resume: bool) -> Opened:
    going_on = resume and (folder / JOB).exists()
    if not going_on:
        if found := [name for name in SIGNS if (folder / name).exists()]:
            raise OutputError(
                f"output_dir {folder} already holds a run ({', '.join(found)}); {_advice(folder)}"
                "choose another with output_dir=FOLDER, or move that one away"
            )
        return Opened(folder)
    was = load_job(folder / JOB)
    old, new = was.model_dump(), job.model_dump()
    for values in (old, new):
        values["network.clients"] = values.pop("network")["clients"]
    changed = [
        key for key in old if key not in FREE and old[key] != new[key] and not _settles(old[key], new[key])
    ]
    if changed:
        told = "; ".join(f"{key}: {old[key]!r}, now {new[key]!r}" for key in changed)
        command = "server" if (folder / MEMBERS).exists() else "run"
        raise JobError(
            f"the run in {folder} is of another job ({told}): go on with "
            f"`splitft {command} {folder / JOB} --resume`, or choose another output_dir"
        )
    # The rounds: those of epochs are known when the data are read, unless the run has as many.
    epochs = job.num_train_epochs
    known = epochs is None or epochs == was.num_train_epochs
    rounds = was.rounds if epochs is not None else job.rounds
    if known:
        check_rounds(folder, was.rounds, rounds, job.dp)
    finished = finished_rounds(folder)
    if finished is not None and known and finished >= rounds:
        return Opened(folder, complete=True, rounds=was.rounds)
    from splitft.common.checkpoint import FOLDER, load_checkpoint

    checkpoint = load_checkpoint(folder / FOLDER)
    if checkpoint is None and finished is not None:
        raise OutputError(
            f"the run in {folder} is complete and has kept no state to go on from (save_every was 0): start "
            f"another from its adapter, with adapter_name_or_path={folder / 'adapter'} output_dir=FOLDER"
        )
    diverged = bool(read_summary(folder).get("diverged"))
    return Opened(folder, checkpoint, rounds=was.rounds, diverged=diverged)


def check_rounds(folder: Path, was: int, now: int, dp: DPConfig) -> None:
    """Raise JobError where a run is to have fewer rounds than it had, or more than its noise is for."""
    if 0 < was < now and dp.epsilon is not None:
        raise JobError(
            f"the run in {folder} is of {was} rounds, and its noise was chosen for dp.epsilon {dp.epsilon:g} "
            f"after these: it cannot be extended to {now}; start another with dp.noise_multiplier, or from "
            "its adapter, whose epsilon then adds to this one"
        )
    if now < was:
        raise JobError(
            f"the run in {folder} is of {was} rounds, and the job now asks for {now}: --resume can extend a "
            f"run, not shorten it; set rounds={was} or more, or choose another output_dir"
        )


def _advice(folder: Path) -> str:
    """Return what --resume would do with the run in a folder."""
    if not (folder / "checkpoints").exists():
        return ""
    return "extend it (rounds=MORE --resume), " if is_complete(folder) else "go on with it (--resume), "


def _settles(was: Any, now: Any) -> bool:
    """Whether a run has put a value, which its folder holds, in the place of `auto`."""
    return bool(now == "auto" and (was == "off" or isinstance(was, bool)))


def is_complete(folder: Path) -> bool:
    """Whether a run has come to its end."""
    return finished_rounds(folder) is not None


def finished_rounds(folder: Path) -> int | None:
    """Return the rounds of a run that has come to its end; None of one that has not."""
    summary = read_summary(folder)
    return int(summary.get("rounds", 0)) if summary.get("interrupted") is False else None


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
