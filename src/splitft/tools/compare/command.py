"""`splitft compare`: methods and varied keys over seeds, each run made once, with a table and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from splitft.common.files import write_atomically
from splitft.common.notebook import make_console
from splitft.cuts.registry import CUT_POLICIES
from splitft.errors import JobError
from splitft.history import strict_json
from splitft.job import JobSource, make_job
from splitft.job.problems import job_error
from splitft.lora.objective import OBJECTIVES
from splitft.lora.server_optimizer import SERVER_OPTIMIZERS
from splitft.running.methods import METHODS
from splitft.tools.compare.arms import algorithms, make_arms, parse_methods, parse_vary
from splitft.tools.compare.plan import name_variants, plan_variants, problems_of, source_name
from splitft.tools.compare.sweep import INDEX, SweepResult, run_sweep
from splitft.tools.report.command import NAME, check_replaceable, write_report
from splitft.tools.report.groups import group_runs
from splitft.tools.report.runs import read_run
from splitft.tools.report.verdict import report_data


@dataclass(frozen=True)
class Comparison:
    """What a comparison made. runs: {variant and seed: folder}; failed: {variant and seed: why}.

    results: figures of every variant, as in results.json; empty where no run is finished. report: the page.
    """

    folder: Path
    runs: dict[str, Path]
    failed: dict[str, str]
    results: dict[str, Any]
    report: Path | None
    exit_code: int  # 0, or that of the first run that failed


def compare_command(
    job: JobSource,
    overrides: Sequence[str] = (),
    *,
    methods: str | None = None,
    vary: Sequence[str] = (),
    seeds: int = 1,
    out: Path | None = None,
    parallel: int = 1,
    console: Console | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Comparison:
    """Run every combination of method, varied value and seed; print the table, write the page.

    job: a job file, the name of a recipe, a Job or a mapping; it must be a complete job by itself.
    overrides: `key=value` texts for all runs. changes: {key: value}, the same for Python.
    methods: names with commas between: job methods, cut policies (method splitft with that policy), or
        algorithms (fedavg, a server optimizer or an objective, each alone).
    vary: `KEY=[V1,V2,...]` texts; several make every combination.
    seeds: runs of each combination, with the job's seed and those that follow it.
    out: folder of the comparison (splitft.tools.compare.store); default: runs/compare-JOB. Runs that it holds
        are not made again: a run is known by its whole job. After a change of the data or the model under the
        same name, choose another folder.
    parallel: runs at a time; they share the cores.

    Runs that fail do not stop the others, which are finished and reported.
    Raises JobError with all problems before anything is started; OutputError where the folder cannot be
    written or holds files that no comparison put there; KeyboardInterrupt after all runs were stopped: the
    same command goes on where it was.
    """
    # The variants, or every problem.
    policies, taken = CUT_POLICIES.names(), [*METHODS.names(), *CUT_POLICIES.names()]
    named = algorithms(SERVER_OPTIMIZERS.names(), OBJECTIVES.names())
    named = {name: keys for name, keys in named.items() if name not in taken}
    names, problems = parse_methods(methods, [*policies, *named])
    varied, wrong = parse_vary(vary)
    problems += wrong
    if names and "method" in varied:
        problems.append("--vary method: give methods by --methods or by --vary, not both")
    problems += [
        f"--{option}: at least 1, not {number}"
        for option, number in {"seeds": seeds, "parallel": parallel}.items()
        if number < 1
    ]
    if not (problems or names or varied or seeds > 1):
        problems.append("nothing to compare: give --methods, --vary or --seeds; `splitft run` makes one run")
    try:
        base = make_job(job, changes, overrides)
    except JobError as error:
        problems += problems_of(error)
    if problems:
        raise job_error(source_name(job), problems, "; nothing was started")
    arms = make_arms(names, varied, base.cut_policy.method, named)
    of_seeds = range(base.seed, base.seed + seeds)
    variants = name_variants(plan_variants(job, overrides, arms, of_seeds, changes))

    # Their runs and the report.
    console = console or make_console()
    folder = Path(out or Path("runs") / f"compare-{Path(source_name(job)).stem}").expanduser()
    if folder.is_dir():
        check_replaceable(folder / NAME)
    try:
        result = run_sweep(variants, folder, index=folder / INDEX, parallel=parallel, console=console)
    except KeyboardInterrupt:
        console.print("interrupted: finished runs are kept; the same command goes on", highlight=False)
        raise
    results = write_results(result, folder, console)
    return Comparison(
        folder,
        {
            variant.title: result.folders[v]
            for variant in result.variants
            if (v := variant.run) in result.folders
        },
        {who: reason for who, _, reason in failures(result)},
        results,
        folder / NAME if results else None,
        tell_failures(result, console),
    )


def write_results(
    result: SweepResult, folder: Path, console: Console, title: str | None = None
) -> dict[str, Any]:
    """Write report.html and results.json of a sweep's finished runs into the folder, and print the table.

    Returns the results; nothing is written, and they are empty, where no run is finished.
    """
    runs = [read_run(path) for path in result.folders.values()]
    if not runs:
        return {}
    notes = [f"Left out: {who} failed: {reason.splitlines()[0]}" for who, _, reason in failures(result)]
    results = report_data(group_runs(runs))
    write_atomically(folder / "results.json", strict_json(results, indent=1))
    write_report(runs, folder / NAME, console, title, notes)
    return results


def failures(result: SweepResult) -> list[tuple[str, int, str]]:
    """Return (variant and seed, exit code, reason) of every run that failed."""
    titles = {variant.run: variant.title for variant in reversed(result.variants)}
    return [(titles[name], code, reason) for name, (code, reason) in result.failed.items()]


def tell_failures(result: SweepResult, console: Console) -> int:
    """Print why runs failed; return the exit code: 0, or that of the first that failed."""
    failed = failures(result)
    if not failed:
        return 0
    runs = len(result.failed) + len(result.folders)
    console.print(f"{len(failed)} of {runs} runs failed; the same command tries them again:", highlight=False)
    for who, _, reason in failed:
        text = f"  {who}: " + reason.replace("\n", "\n    ")
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    code = failed[0][1]
    return code if 1 <= code <= 5 else 1
