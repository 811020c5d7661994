"""The commands as Python functions: the same code, which prints the same, and returns what it made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from splitft.job import JobSource, make_job
from splitft.launch.arguments import names_job
from splitft.launch.check import check_command, tell_job
from splitft.proof.split import SplitReport
from splitft.running.check import JobReport, check_job
from splitft.running.export import export_command
from splitft.running.result import RunResult
from splitft.tools.compare.command import Comparison, compare_command
from splitft.tools.plan.command import plan_command
from splitft.tools.report.command import report_command

Run = RunResult | str | Path  # a run, or its folder


def plan(
    job: JobSource,
    *,
    codecs: bool = False,
    out: str | Path | None = None,
    console: Console | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Predict memory, bytes and time of a job, and return the tables as plain values (plan.json).

    job, changes: as of `run`. codecs: load the weights, and try every codec on one batch. out: folder for
    plan.json and plan.png. Raises JobError, DataError, ModelError, OutputError.
    """
    return plan_command(make_job(job, changes), codecs=codecs, out=_path(out), console=console)


def compare(
    job: JobSource,
    *,
    methods: Sequence[str] = (),
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 1,
    out: str | Path | None = None,
    parallel: int = 1,
    console: Console | None = None,
    **changes: Any,
) -> Comparison:
    """Run a job with several methods, values and seeds; write a table and a report. Resumable.

    job, changes: as of `run`, for all runs. methods: job methods, or cut policies. vary: {key: values};
    several make every combination. out: default: runs/compare-JOB. parallel: runs at a time, each in a
    process. Runs that fail are in `failed`. Raises JobError, OutputError.
    """
    texts = [f"{key}={json.dumps(list(values))}" for key, values in (vary or {}).items()]
    names = ",".join([methods] if isinstance(methods, str) else methods) or None
    return compare_command(
        job, methods=names, vary=texts, seeds=seeds, out=_path(out), parallel=parallel, console=console,
        changes=changes,
    )  # fmt: skip


def report(
    runs: Run | Sequence[Run],
    *,
    out: str | Path | None = None,
    title: str | None = None,
    reference: str | None = None,
    paper: bool = False,
    console: Console | None = None,
) -> Path:
    """Make one HTML page of finished runs, or of all below folders; return its path.

    out: a file, or a folder for report.html. reference: the name of the variant that the others are compared
    with, seed by seed. paper: write a LaTeX table, the text beside it and the figures into a folder beside
    the page. Raises JobError, OutputError.
    """
    several = [runs] if isinstance(runs, RunResult | str | Path) else runs
    folders = [_folder(run) for run in several]
    return report_command(folders, _path(out), title, console, reference=reference, paper=paper)


def export(run: Run, out: str | Path | None = None, *, merge: bool = False) -> Path:
    """Write a run's adapter as a stock PEFT folder, or merged into its model; return the folder.

    out: default: inside the run's. Raises JobError, ModelError, OutputError.
    """
    return export_command(_folder(run), _path(out), merge)


def check(
    source: JobSource, *, cuts: Sequence[int] | None = None, console: Console | None = None, **changes: Any
) -> SplitReport | JobReport:
    """Prove that a model, or a job with its own adapters, computes split what it computes whole.

    source: a model folder, a hub id or builtin:NAME; or a job, as of `run`, with changes. cuts: of a model.
    A model that is refused has `ok` False and a `reason`. Raises JobError, ModelError.
    """
    name = str(source) if isinstance(source, str | Path) else None
    if name is not None and not names_job(name, list(changes), str(cuts) if cuts else None):
        return check_command(name, cuts, console)
    found = check_job(make_job(source, changes))
    tell_job(found, console)
    return found


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _folder(run: Run) -> Path:
    return run.output_dir if isinstance(run, RunResult) else Path(run)
