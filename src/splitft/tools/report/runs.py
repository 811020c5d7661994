"""Finished runs, read back from their folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitft.errors import JobError, OutputError
from splitft.job import Job
from splitft.job.yaml import parse_yaml

HISTORY, SUMMARY, JOB = "history.jsonl", "summary.json", "job.yaml"
NESTED = ("partition", "cut_policy", "dp")  # keys of the job that hold keys themselves


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path
    job: dict[str, Any]  # the effective job, flat; keys that an older run lacks have their defaults
    rounds: list[dict[str, Any]]  # the lines of its history, the evaluation before training first
    summary: dict[str, Any] = field(default_factory=dict)  # what an older run lacks is absent
    partition: dict[str, Any] = field(default_factory=dict)  # the clients' data; empty where not recorded
    decisions: list[dict[str, Any]] = field(default_factory=list)  # of the cut policy; empty without one
    audit: dict[str, Any] = field(default_factory=dict)  # of `splitft audit`; empty without one

    @property
    def seed(self) -> int:
        """The seed of the job."""
        return int(self.job["seed"])

    @property
    def last_round(self) -> int:
        """The last round that is recorded."""
        return int(self.rounds[-1]["round"])

    @property
    def finished(self) -> bool:
        """Whether the run reached its last round."""
        return not self.summary.get("interrupted", False) and self.last_round >= int(self.job["rounds"])


def read_run(path: Path) -> RunFolder:
    """Read a run's folder; an interrupted run is read as far as it came.

    Raises JobError where the folder holds no run or no round of it is complete, OutputError where a file
    of it is damaged.
    """
    job_file = path / JOB
    if not job_file.is_file():
        what = "is no folder" if not path.is_dir() else f"holds no run (no {JOB})"
        raise JobError(f"{path} {what}; give the output_dir of a run, or a folder of runs")
    rounds = _lines(path / HISTORY)
    if not rounds:
        raise JobError(f"{path}: no round of this run is complete yet; wait for its first, or run it again")
    if not all(isinstance(line.get("round"), int) for line in rounds):
        raise OutputError(f"{path / HISTORY} is damaged: a line names no round; run the job again")
    return RunFolder(
        path=path,
        job=_job(job_file),
        rounds=rounds,
        summary=_object(path / SUMMARY),
        partition=_object(path / "partition.json"),
        decisions=_lines(path / "decisions.jsonl"),
        audit=_object(path / "audit.json"),
    )


def collect_runs(folders: Iterable[Path]) -> tuple[list[RunFolder], list[str]]:
    """Return the runs in these folders and below them, each once, and what was passed over and why.

    A folder that is a run itself is not searched further. Raises JobError where a folder holds no run with a
    complete round, OutputError where a file of a run is damaged.
    """
    runs: dict[Path, RunFolder] = {}
    passed_over: list[str] = []
    for folder in folders:
        own = [folder] if (folder / JOB).is_file() else _below(folder)
        for path in own:
            try:
                runs.setdefault(path.resolve(), read_run(path))
            except JobError as error:
                if len(own) == 1:
                    raise
                passed_over.append(str(error))
        if not any(path.resolve() in runs for path in own):
            raise JobError(
                f"{folder} holds no run with a complete round; give a run's output_dir or a folder of runs"
            )
    return list(runs.values()), passed_over


def _below(folder: Path) -> Sequence[Path]:
    """Folders below that look like runs; an adapter's or a hidden folder is none."""
    found = [path.parent for path in folder.rglob(JOB)] if folder.is_dir() else []
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _job(path: Path) -> dict[str, Any]:
    """The job's keys, flat. Not validated: a policy may come from a module that is not loaded here."""
    try:
        values, _ = parse_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not a mapping")
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read: {error}; run the job again") from None
    job: dict[str, Any] = {}
    for key, info in Job.model_fields.items():
        default = info.get_default(call_default_factory=True)
        default = default.model_dump() if key in NESTED else default
        value = values.pop(key, default)
        job[key] = {**default, **value} if isinstance(default, dict) and isinstance(value, dict) else value
    job = flat_keys(job | values)
    if not isinstance(job["seed"], int) or not isinstance(job["rounds"], int):
        raise OutputError(f"{path} is damaged: seed and rounds must be whole numbers; run the job again")
    return job


def flat_keys(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's keys with those of its groups under dotted names, `partition.alpha`."""
    flat: dict[str, Any] = {}
    for key, value in job.items():
        group = isinstance(value, Mapping) and key in NESTED
        flat |= {f"{key}.{name}": item for name, item in value.items()} if group else {key: value}
    return flat


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; none without the file. A last line without its end is being written."""
    lines = _text(path).split("\n")[:-1]
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _object(path: Path) -> dict[str, Any]:
    text = _text(path)
    return _parse(text, str(path)) if text else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{path} cannot be read: {error}; run the job again") from None


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise OutputError(f"{where}: damaged, not valid JSON: {error}; run the job again") from None
    if not isinstance(value, dict):
        raise OutputError(f"{where}: damaged, not an object; run the job again")
    return value
