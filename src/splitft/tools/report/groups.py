"""Variants: the runs of one job with several seeds, labelled by the keys that set them apart."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from splitft.tools.report.labels import make_labels, short_names, tells, without_effect
from splitft.tools.report.runs import RunFolder

NOT_COMPARED = ("seed", "output_dir")
LONGEST = 28  # letters of a name made of keys, from which on a folder's own name is shorter
_SEED = re.compile(r"[-_. ]*seed[-_. ]*\d+$|[-_. ]*s\d+$", re.IGNORECASE)
_MADE = re.compile(r"-seed\d+-[0-9a-f]{10}$")  # folders that a comparison names by a hash


@dataclass(frozen=True)
class Spread:
    """Mean over seeds; sd is the sample standard deviation, None with one seed."""

    mean: float
    sd: float | None
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Variant:
    """Runs of one job with different seeds."""

    label: str  # the method and the keys that set it apart from the others
    differs: dict[str, Any]  # the keys in which the variants differ, with its own values
    job: dict[str, Any]  # flat
    runs: tuple[RunFolder, ...]  # one run a seed, in the order of seeds
    left_out: tuple[tuple[RunFolder, str], ...] = ()  # runs that no mean includes, and why

    @property
    def interrupted(self) -> bool:
        """Whether it consists of interrupted runs only; else those are left out."""
        return not any(run.finished for run in self.runs)


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and spread of the values, None without any."""
    if not values:
        return None
    deviation = stdev(values) if len(values) > 1 else None
    return Spread(fmean(values), deviation, min(values), max(values), len(values))


def group_runs(runs: Sequence[RunFolder]) -> list[Variant]:
    """Return the variants by method, then by the values in which they differ."""
    grouped: dict[str, list[RunFolder]] = {}
    for run in runs:
        own = {key: value for key, value in run.job.items() if key not in NOT_COMPARED}
        own["run_name"] = _without_seed(str(own.get("run_name") or ""))
        grouped.setdefault(json.dumps(own, sort_keys=True, default=str), []).append(run)
    jobs = [group[0].job for group in grouped.values()]
    keys = differing_keys(jobs)
    labels = _given_names(list(grouped.values())) or make_labels(jobs, keys)
    variants = [
        Variant(label, {key: job.get(key) for key in keys}, job, *_choose(group))
        for group, job, label in zip(grouped.values(), jobs, labels, strict=True)
    ]
    return sorted(variants, key=_order)


def _given_names(groups: Sequence[Sequence[RunFolder]]) -> list[str] | None:
    """Return `run_name` of each variant, or the names of the folders where keys would make long names.

    None unless all have one, and no two the same.
    """
    named = [_without_seed(str(group[0].job.get("run_name") or "")) for group in groups]
    if len(groups) == 1 or (all(named) and len(set(named)) == len(named)):
        return named if all(named) else None
    jobs = [{**group[0].job, "run_name": None} for group in groups]
    keys = differing_keys(jobs)
    made = make_labels(jobs, keys)
    if max(map(len, made)) <= LONGEST and not _unnamed(jobs, made, keys):
        return None
    folders = [{_folder_name(run) for run in group} for group in groups]
    own = [names.pop() for names in folders if len(names) == 1]
    return own if len(own) == len(groups) == len(set(own)) and all(own) else None


def _folder_name(run: RunFolder) -> str:
    name = run.path.name
    return "" if _MADE.search(name) else _without_seed(name)


def _without_seed(name: str) -> str:
    return _SEED.sub("", name)


def unnamed_keys(variants: Sequence[Variant]) -> list[str]:
    """Return the keys that differ and matter, but that long labels leave out."""
    return _unnamed([v.job for v in variants], [v.label for v in variants], list(variants[0].differs))


def _unnamed(jobs: Sequence[Mapping[str, Any]], labels: Sequence[str], keys: Sequence[str]) -> list[str]:
    short = short_names(keys)
    return [
        key
        for key in keys
        if key not in ("method", "method_name", "cut_policy.method")
        and tells(jobs, key)
        and any(
            not without_effect(job, key) and f"{short[key]} " not in label
            for job, label in zip(jobs, labels, strict=True)
        )
    ]


def differing_keys(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that have not the same value in all jobs, without seed and output_dir."""
    keys = dict.fromkeys(key for job in jobs for key in job if key not in NOT_COMPARED)
    return [key for key in keys if any(job.get(key) != jobs[0].get(key) for job in jobs)]


def _choose(group: Sequence[RunFolder]) -> tuple[tuple[RunFolder, ...], tuple[tuple[RunFolder, str], ...]]:
    """One run a seed; interrupted ones only where no run of the variant is finished."""
    by_seed: dict[int, RunFolder] = {}
    left_out: list[tuple[RunFolder, str]] = []
    some_finished = any(run.finished for run in group)
    for run in sorted(group, key=lambda run: (not run.finished, -run.last_round, str(run.path))):
        if some_finished and not run.finished:
            left_out.append((run, f"interrupted after round {run.last_round} of {run.job['rounds']}"))
        elif run.seed in by_seed:
            left_out.append((run, f"the same job and seed as {by_seed[run.seed].path.name}"))
        else:
            by_seed[run.seed] = run
    return tuple(by_seed[seed] for seed in sorted(by_seed)), tuple(left_out)


def _order(variant: Variant) -> tuple[Any, ...]:
    values = [
        (isinstance(value, str), value if isinstance(value, int | float) else 0, str(value))
        for value in variant.differs.values()
    ]
    return (str(variant.job.get("method")), values)
