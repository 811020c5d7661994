"""A sweep: makes the missing runs of its variants and collects their folders and failures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from splitft.common.checkpoint import FOLDER
from splitft.common.files import write_atomically
from splitft.errors import OutputError
from splitft.tools.compare.plan import PlannedVariant, changed_key, distinct_runs
from splitft.tools.compare.processes import make_runs, reason_of
from splitft.tools.compare.progress import CompareProgress
from splitft.tools.compare.store import Store, effective_job, open_store, prepare_run, run_state

INDEX = "sweep.json"


@dataclass(frozen=True)
class SweepResult:
    """The outcome of a sweep."""

    variants: tuple[PlannedVariant, ...]  # as planned
    folders: dict[str, Path]  # {run: its folder} of those that finished, now or before
    failed: dict[str, tuple[int, str]]  # {run: (exit code, reason)}


def run_sweep(
    variants: Sequence[PlannedVariant], out: Path, *, index: Path, parallel: int, console: Console
) -> SweepResult:
    """Make the runs that the variants need and that `out` does not hold yet; write the index.

    index: a JSON file that says which run belongs to which variant, written before the first run starts.
    An interrupt stops all runs and is raised again; what is finished stays. A run that fails does not stop
    the others. Raises OutputError.
    """
    needed = distinct_runs(sorted(variants, key=lambda variant: variant.seed))  # all arms of one seed first
    with open_store(out) as (store, lock):
        states = {name: run_state(store, name) for name in needed}
        foreign = [str(store.run(name)) for name, state in states.items() if state == "foreign"]
        if foreign:
            raise OutputError(
                f"no comparison put this there: {', '.join(foreign)}; move it away, or choose another folder "
                "with --out"
            )
        for name in (name for name, state in states.items() if state == "finished"):
            if key := changed_key(effective_job(store, name), needed[name].job):
                raise OutputError(
                    f"{store.run(name)} was made by a version of splitft with another default of {key}; move "
                    "it away, or choose another folder with --out"
                )
        write_index(index, store, variants)
        missing = [name for name, state in states.items() if state != "finished"]
        for name in missing:
            prepare_run(store, name, needed[name].job)
        begun = [name for name in missing if (store.run(name) / FOLDER).is_dir()]
        of_them = f" ({len(begun)} from a checkpoint)" if begun else ""
        at_a_time = f", {parallel} at a time" if parallel > 1 else ""
        console.print(
            f"{len(variants)} variants and seeds need {len(needed)} runs; "
            f"{len(needed) - len(missing)} are finished, {len(missing)} to go{of_them}{at_a_time}",
            highlight=False,
        )
        with CompareProgress(store, needed, parallel, console) as progress:
            codes = make_runs(missing, store, parallel, progress, lock)
        folders = {name: store.run(name) for name in needed if run_state(store, name) == "finished"}
        failed = {
            name: (codes[name], reason_of(store.log(name), codes[name]))
            for name in missing
            if name not in folders
        }
    return SweepResult(tuple(variants), folders, failed)


def write_index(path: Path, store: Store, variants: Sequence[PlannedVariant]) -> None:
    """Write which run belongs to which variant; paths are below the folder of the comparison."""
    path.parent.mkdir(parents=True, exist_ok=True)
    index = {
        "folder": str(store.folder),
        "variants": [
            {
                "label": variant.label,
                "overrides": dict(variant.overrides),
                "seed": variant.seed,
                "run": str(store.run(variant.run).relative_to(store.folder)),
            }
            for variant in variants
        ],
    }
    write_atomically(path, json.dumps(index, indent=1))
