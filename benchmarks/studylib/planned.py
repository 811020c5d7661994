"""What `splitft plan` predicts for runs of the study, beside the virtual clock of the runs themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from splitft.common.files import write_atomically
from splitft.errors import SplitFTError
from splitft.history import read_history
from splitft.job import Job
from splitft.tools.compare.plan import PlannedVariant


def planned_seconds(
    variants: Sequence[PlannedVariant], cache: Path, console: Console
) -> dict[str, float | None]:
    """Return {run: virtual seconds of all rounds, planned without training}; None where no plan can be made.

    cache: a JSON file that keeps them. A plan takes the run's loading of data, and seconds more.
    """
    known: dict[str, float | None] = {}
    if cache.is_file():
        known = json.loads(cache.read_text(encoding="utf-8"))
    for variant in variants:
        if variant.run not in known:
            with console.status(f"planning {variant.label}, seed {variant.seed}"):
                known[variant.run] = _plan(variant)
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(cache, json.dumps(known, indent=1))
    return {variant.run: known[variant.run] for variant in variants}


def told_its_cuts(variant: PlannedVariant, run: Path) -> PlannedVariant | None:
    """Return the variant with a schedule of the cuts that its run came to, for a policy by accuracies.

    A plan cannot know accuracies, and so not these cuts; None for other policies.
    """
    policy = variant.job.cut_policy
    if variant.job.method != "splitft" or policy.method not in ("splitft", "accuracy"):
        return None
    records = read_history(run)
    schedule = {str(r["round"]): list(r["cuts"].values()) for r in records if r["round"]}
    told = policy.model_copy(update={"method": "schedule", "schedule": schedule})
    job = Job(**{**variant.job.model_dump(), "cut_policy": told.model_dump()})
    return replace(variant, job=job, run=f"{variant.run}, told its cuts")


def _plan(variant: PlannedVariant) -> float | None:
    from splitft.tools.plan.command import plan_command

    try:
        seconds = plan_command(variant.job, console=Console(quiet=True)).get("virtual_seconds")
    except SplitFTError:
        return None
    return None if seconds is None else float(seconds)
