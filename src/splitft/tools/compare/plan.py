"""The runs that arms and seeds need; every job is complete and checked before one starts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from splitft.common.text import first_few
from splitft.errors import JobError
from splitft.job import Job, JobSource, make_job
from splitft.running.methods import with_method
from splitft.running.names import check_names
from splitft.tools.compare.arms import Arm
from splitft.tools.report.groups import differing_keys
from splitft.tools.report.labels import make_labels
from splitft.tools.report.runs import NESTED, flat_keys

_DIGITS = 10  # of the hash in a run's name


@dataclass(frozen=True)
class PlannedVariant:
    """One arm with one seed."""

    label: str
    overrides: Mapping[str, Any]
    seed: int
    job: Job  # complete but for output_dir, which the store chooses
    run: str  # the name of its run; equal jobs share a run

    @property
    def title(self) -> str:
        """The label and the seed, as a person reads them."""
        return f"{self.label}, seed {self.seed}"


def plan_variants(
    source: JobSource,
    overrides: Sequence[str],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    changes: Mapping[str, Any] | None = None,
) -> list[PlannedVariant]:
    """Return the variants, by arm, then by seed.

    source, changes, overrides: as of `make_job`; all variants share them. An arm's keys win over them, and
    the seed over all. Raises JobError with every problem of every variant's job at once.
    """
    variants: list[PlannedVariant] = []
    problems: dict[str, list[str]] = {}
    for arm in arms:
        for seed in seeds:
            try:
                job = make_job(source, {**(changes or {}), **arm.overrides, "seed": seed}, overrides)
                _check_rounds(job, arm)
                job = with_method(job)
                check_names(job, job, job)
            except JobError as error:
                for problem in problems_of(error):
                    labels = problems.setdefault(problem, [])
                    labels += [arm.label] if arm.label not in labels else []
            else:
                variants.append(PlannedVariant(arm.label, dict(arm.overrides), seed, job, run_name(job)))
    if problems:
        lines = [f"{first_few(labels, 3, '; ')}: {problem}" for problem, labels in problems.items()]
        raise JobError(
            "\n  ".join([f"{source_name(source)}: not every variant is a job; nothing was started", *lines])
        )
    return variants


def _check_rounds(job: Job, arm: Arm) -> None:
    """Raise JobError where the arm varies rounds, and another key of the job sets them."""
    if "rounds" not in arm.overrides:
        return
    for key in ("max_steps", "num_train_epochs"):
        if getattr(job, key) is not None:
            raise JobError(
                f"rounds: {key} {getattr(job, key)} sets the rounds, and the runs would be equal: "
                f"vary {key}, or unset it with {key}=null"
            )


def source_name(source: JobSource) -> str:
    """Return how messages name a job."""
    return str(source) if isinstance(source, str | Path) else "Job"


def name_variants(variants: Sequence[PlannedVariant]) -> list[PlannedVariant]:
    """Return the variants with the labels that the report gives them: what sets their jobs apart."""
    jobs = {variant.label: flat_keys(variant.job.model_dump()) for variant in variants}
    labels = make_labels(list(jobs.values()), differing_keys(list(jobs.values())))
    named = dict(zip(jobs, labels, strict=True))
    return [replace(variant, label=named[variant.label]) for variant in variants]


def distinct_runs(variants: Sequence[PlannedVariant]) -> dict[str, PlannedVariant]:
    """Return {run: the first variant that needs it}, in order."""
    runs: dict[str, PlannedVariant] = {}
    for variant in variants:
        runs.setdefault(variant.run, variant)
    return runs


def run_name(job: Job) -> str:
    """Return the name of a job's run: what it is, and a hash of all keys but output_dir.

    Made of letters, digits, `_` and `-` only. Equal jobs have equal names; others do not (40 bits of BLAKE2).
    Keys at their defaults are not hashed: a key that a later version adds leaves the names as they are.
    Where a version changes a default, `changed_key` tells its runs from others of the same name.
    """
    values = _stated(job.model_dump(exclude={"output_dir"}, exclude_defaults=True))
    if "dataset_text_field" in job.model_fields_set:  # stated, it wins over other columns: see left_open
        values["stated"] = ["dataset_text_field"]
    text = json.dumps(values, sort_keys=True, ensure_ascii=True)
    digest = hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:_DIGITS]
    adaptive = job.method == "splitft" and job.cut_policy.method != "splitft"
    method = f"splitft-{job.cut_policy.method}" if adaptive else job.method
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", method)[:40].strip("-")
    return f"{safe}-seed{job.seed}-{digest}"


def changed_key(made: Mapping[str, Any], job: Job) -> str | None:
    """Return a key with another value in `made`, the effective job of a run, than in the job; None without.

    Keys that only one of them has are those of another version of splitft.
    """
    here, there = _flat(job.model_dump(mode="json", exclude={"output_dir"}), job), _flat(made, job)
    return next((key for key, value in here.items() if key in there and there[key] != value), None)


def _flat(values: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """Return the values with those of the job's sections under dotted names, `network.probe`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        section = isinstance(value, Mapping) and isinstance(getattr(job, key, None), BaseModel)
        flat |= {f"{key}.{name}": item for name, item in value.items()} if section else {key: value}
    return flat


def _stated(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values without groups of keys in which nothing is left."""
    return {key: value for key, value in values.items() if not (key in NESTED and value == {})}


def problems_of(error: JobError) -> list[str]:
    """Return the lines of a job's error without the heading that names the file."""
    heading, *problems = str(error).split("\n  ")
    return problems or [heading]
