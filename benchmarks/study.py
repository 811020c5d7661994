"""The whole study: every sweep over one recipe, resumable; figures, plots and verdicts go to docs/study.

    python benchmarks/study.py r-cut               one sweep
    python benchmarks/study.py all --parallel 2    all short ones, two runs at a time
    python benchmarks/study.py long --parallel 2   the paper's central comparisons at its own length: hours
    python benchmarks/study.py pages               only the pages, from what is finished

Sweeps share their runs in runs/study; an interrupted study goes on where it was. A run whose figures are
published in docs/study, made from the same job, is not made again. With a recipe, overrides or
seeds other than the study's own, pages go to OUT/docs, so that the published ones stay those of the study.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from studylib.pages import page, verdict_line, verdicts_of
from studylib.planned import planned_seconds, told_its_cuts
from studylib.plots import plot_sweep
from studylib.results import add_targets, measure
from studylib.sweeps import LONG_SWEEPS, SWEEPS

from splitft.common.files import write_atomically
from splitft.errors import SplitFTError
from splitft.job import Job, load_job
from splitft.tools.compare.arms import Arm
from splitft.tools.compare.command import tell_failures, write_results
from splitft.tools.compare.plan import PlannedVariant, changed_key, plan_variants
from splitft.tools.compare.store import Store, run_state
from splitft.tools.compare.sweep import INDEX, SweepResult, run_sweep, write_index
from splitft.tools.report.runs import read_run

RECIPE, SEEDS = "study-smollm2", 3
NAMES = {
    "all": [name for name in SWEEPS if name not in LONG_SWEEPS],
    "long": list(LONG_SWEEPS),
    "pages": list(SWEEPS),
}
OUT, DOCS = Path("runs/study"), Path("docs/study")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sweeps that are asked for and write the pages; return the exit code."""
    options = parse(arguments)
    names = NAMES.get(options.sweep) or [options.sweep]
    console = Console(quiet=options.quiet)
    try:
        planned = plan_study(options.recipe, options.overrides, list(SWEEPS), options.seeds)
        code = 0
        if options.sweep != "pages":
            published = read_published(docs_of(options), names, load_job(options.recipe, options.overrides))
            code = make_runs(planned, names, published, options.out, options.parallel, console)
        base = load_job(options.recipe, options.overrides)
        write_pages(planned, options.out, docs_of(options), base, options.recipe, console)
    except SplitFTError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: finished runs are kept; the same command goes on", file=sys.stderr)
        return 130
    return code


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", choices=[*SWEEPS, *NAMES])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of the job, for all runs")
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, help="runs of each arm, at least; long sweeps have five"
    )
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--recipe", default=RECIPE, help="a recipe or a job file")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the runs")
    parser.add_argument("--docs", type=Path, help="folder of the pages")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_intermixed_args(arguments)
    if min(options.seeds, options.parallel) < 1:
        parser.error("--seeds and --parallel are at least 1")
    return options


def docs_of(options: argparse.Namespace) -> Path:
    """Return where the pages go."""
    if options.docs is not None:
        return Path(options.docs)
    own = options.recipe == RECIPE and not options.overrides and options.seeds >= SEEDS
    return DOCS if own else Path(options.out) / "docs"


def plan_study(
    recipe: str, overrides: Sequence[str], names: Sequence[str], seeds: int
) -> dict[str, dict[tuple[str, str], list[PlannedVariant]]]:
    """Return {sweep: {(group, arm): a variant a seed}}; every job is complete and checked."""
    base: Job = load_job(recipe, overrides)
    planned: dict[str, dict[tuple[str, str], list[PlannedVariant]]] = {}
    for name in names:
        planned[name] = {}
        of_seeds = range(base.seed, base.seed + max(seeds, SWEEPS[name].seeds))
        for group, label, keys in SWEEPS[name].arms():
            arm = Arm(label if group == "all" else f"{group}: {label}", keys)
            planned[name][group, label] = plan_variants(recipe, overrides, [arm], of_seeds)
    return planned


def make_runs(
    planned: Mapping[str, Mapping[Any, list[PlannedVariant]]],
    names: Sequence[str],
    published: Mapping[str, Any],
    out: Path,
    parallel: int,
    console: Console,
) -> int:
    """Make the runs of the sweeps that are missing, and each sweep's index, results.json and report.html.

    published: {run: figures} of runs that need not be made again.
    """
    of_sweep = {
        name: [v for arm in planned[name].values() for v in arm if v.run not in published] for name in names
    }
    of_sweep = {name: variants for name, variants in of_sweep.items() if variants}
    if not of_sweep:
        return 0
    for name, variants in of_sweep.items():
        write_index(out / name / INDEX, Store(out), variants)
    variants = [variant for of_one in of_sweep.values() for variant in of_one]
    index = out / "all.json" if len(of_sweep) > 1 else out / next(iter(of_sweep)) / INDEX
    result = run_sweep(variants, out, index=index, parallel=parallel, console=console)
    for name, own in of_sweep.items():
        runs = {variant.run for variant in own}
        folders = {run: folder for run, folder in result.folders.items() if run in runs}
        failed = {run: reason for run, reason in result.failed.items() if run in runs}
        part = SweepResult(tuple(own), folders, failed)
        write_results(part, out / name, Console(quiet=True), f"SplitFT study: {SWEEPS[name].title}")
    return tell_failures(result, console)


def write_pages(
    planned: Mapping[str, Mapping[tuple[str, str], list[PlannedVariant]]],
    out: Path,
    docs: Path,
    base: Job,
    recipe: str,
    console: Console,
) -> None:
    """Write README.md, and a JSON file and a plot for each sweep, from the runs that are finished.

    The figures of a sweep that is complete in `docs` and not in `out` (another machine made it) stay as they
    are; its picture is drawn anew.
    """
    docs.mkdir(parents=True, exist_ok=True)
    sweeps = {}
    for name, arms in planned.items():
        file = docs / f"{name}.json"
        published = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        results = sweep_results(arms, Store(out), read_published(docs, [name], base), published)
        if SWEEPS[name].planned:
            add_plans(results["groups"], arms, Store(out), out / name / "plans.json", console)
        if published and results["missing"] and not published["missing"]:
            results = published
            plot_sweep(results["groups"], SWEEPS[name].title, docs / f"{name}.png")
        elif not results["groups"]:
            continue
        else:
            plotted = plot_sweep(results["groups"], SWEEPS[name].title, docs / f"{name}.png")
            results["plot"] = f"{name}.png" if plotted else None
            verdicts = verdicts_of(name, results["groups"])
            results["verdicts"] = [verdict.to_dict() for verdict in verdicts]
            results["job"] = base_keys(base)
            write_atomically(file, json.dumps(results, allow_nan=False) + "\n")
            for verdict in verdicts:
                console.print(verdict_line(verdict), highlight=False, markup=False, soft_wrap=True)
        sweeps[name] = results
    write_atomically(docs / "README.md", page(sweeps, settings_text(base, recipe)))
    console.print(f"Pages: {docs / 'README.md'}", highlight=False, markup=False, soft_wrap=True)


def base_keys(base: Job) -> dict[str, Any]:
    """Return the job that all runs of the study vary, as its pages hold it."""
    return base.model_dump(mode="json", exclude={"output_dir"})


def read_published(docs: Path, names: Sequence[str], base: Job) -> dict[str, Any]:
    """Return {run: figures} of all runs in the pages of these sweeps; a run's name is its job's digest.

    base: the job that they vary. Pages of another one, in any key that both have, do not count: a default
    may have changed since.
    """
    found: dict[str, Any] = {}
    for file in (docs / f"{name}.json" for name in names):
        read = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if changed_key(read.get("job", {}), base) is None:
            groups = read.get("groups", {}).values()
            every = (figures for arms in groups for seeds in arms.values() for figures in seeds.values())
            found |= {figures["run"]: figures for figures in every if "run" in figures}
    return found


def sweep_results(
    arms: Mapping[tuple[str, str], list[PlannedVariant]],
    store: Store,
    published: Mapping[str, Any] = MappingProxyType({}),
    former: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return {groups: {group: {arm: {seed: figures}}}, missing: [who is not finished], made_with: [...]}.

    made_with: every combination of versions and hardware that the runs were made with. published: {run:
    figures} of runs made elsewhere, of the pages `former`.
    """
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    missing: list[str] = []
    made_with: list[dict[str, Any]] = []
    for (group, label), variants in arms.items():
        for variant in variants:
            seeds = groups.setdefault(group, {}).setdefault(label, {})
            if run_state(store, variant.run) != "finished":
                if variant.run in published:
                    seeds[str(variant.seed)] = published[variant.run]
                    continue
                missing.append(f"{variant.label}, seed {variant.seed}")
                continue
            run = read_run(store.run(variant.run))
            seeds[str(variant.seed)] = {"run": variant.run, **measure(run)}
            used = {"device": run.summary.get("device"), **run.summary.get("versions", {})}
            made_with += [used] if used not in made_with else []
    made_with += [used for used in (former or {}).get("made_with", []) if used not in made_with]
    made = {group: {arm: seeds for arm, seeds in found.items() if seeds} for group, found in groups.items()}
    targets = {group: add_targets(found) for group, found in made.items() if found}
    return {"groups": targets, "missing": missing, "made_with": made_with}


def add_plans(
    groups: Mapping[str, Any],
    arms: Mapping[tuple[str, str], list[PlannedVariant]],
    store: Store,
    cache: Path,
    console: Console,
) -> None:
    """Set `planned_seconds` of the first seed of every arm that is finished: what `splitft plan` predicts.

    told_seconds: the same where the plan is told the cuts that the run came to by accuracies.
    """
    first = {place: variants[0] for place, variants in arms.items()}
    found = {
        place: figures
        for place, variant in first.items()
        if (figures := groups.get(place[0], {}).get(place[1], {}).get(str(variant.seed))) is not None
    }
    told = {place: told_its_cuts(first[place], store.run(first[place].run)) for place in found}
    asked = [first[place] for place in found] + [variant for variant in told.values() if variant]
    planned = planned_seconds(asked, cache, console)
    for place, figures in found.items():
        figures["planned_seconds"] = planned[first[place].run]
        if (variant := told[place]) is not None:
            figures["told_seconds"] = planned[variant.run]


def settings_text(job: Job, recipe: str) -> str:
    """Return the setup that all runs share, in words."""
    return (
        f"Recipe `{recipe}`: {job.model_name_or_path} on {job.dataset_name or job.data_files}, {job.clients} "
        f"clients, {job.rounds} rounds of {job.local_steps} local steps, batches of "
        f"{job.per_device_train_batch_size} rows of up to {job.max_length} tokens, "
        f"server_adapter {job.server_adapter}, learning rate {job.learning_rate:g}. Figures are means ± "
        "sample standard deviation over seeds; differences and ratios are paired by seed. A seed sets the "
        "partition, the order of the rows and the first adapters. `python benchmarks/study.py all` makes all "
        "of it, and goes on where it was interrupted; the command of each sweep stands with it."
    )


if __name__ == "__main__":
    sys.exit(main())
