"""Labels of variants: the method, and the keys in which they differ and that matter to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any

LONG = 60  # characters of a label, from which on it names no more keys than needed
WITHOUT_CUTS = ("centralized", "fed_lora", "local_only")
_OF_CUTS = ("cuts", "lora_r_cut", "lora_r_cut_side", "server_adapter", "labels", "tail_blocks")
_OF_POLICY = "cut_policy."
_OF_ACCURACY = ("cut_policy.gamma", "cut_policy.w_min", "cut_policy.w_max")
_OF_ADAPTING = ("cut_policy.adapt_every", "cut_policy.max_step", "cut_policy.hysteresis")
_OF_PARTITION = {  # keys that only these methods read
    "partition.alpha": ("length_dirichlet", "dirichlet"),
    "partition.num_buckets": ("length_dirichlet",),
    "partition.column": ("dirichlet", "by_column"),
}


def make_labels(jobs: Sequence[Mapping[str, Any]], keys: Collection[str]) -> list[str]:
    """Return a label for each job: its method, then the keys in which they differ and that matter to it.

    Where that grows longer than LONG, fewer keys that still tell the jobs apart.
    """
    by_method = "method" in keys or "cut_policy.method" in keys or not keys
    rest = [key for key in keys if key not in ("method", "cut_policy.method")]
    idle = [without_effect(job) for job in jobs]

    def label(number: int, named: Sequence[str]) -> str:
        own = [f"{key} {value_text(key, jobs[number].get(key))}" for key in named if not idle[number](key)]
        return ", ".join(([method_name(jobs[number])] if by_method else []) + own)

    labels = [label(i, rest) for i in range(len(jobs))]
    if max(map(len, labels)) > LONG:
        labels = [label(i, _telling(rest, jobs, label)) for i in range(len(jobs))]
    if len(set(labels)) == len(labels) and all(labels):
        return labels
    every = [key for key in keys if key != "method"]  # some that seemed idle set jobs apart: name all
    return [
        ", ".join([method_name(job), *(f"{key} {value_text(key, job.get(key))}" for key in every)])
        for job in jobs
    ]


def _telling(
    keys: Sequence[str], jobs: Sequence[Mapping[str, Any]], label: Callable[[int, Sequence[str]], str]
) -> list[str]:
    """A few of the keys that still tell all jobs apart: again and again the one that sets most apart."""
    chosen: list[str] = []

    def apart(key: str) -> int:
        return len({label(i, [*chosen, key]) for i in range(len(jobs))})

    left = list(keys)
    while left and len({label(i, chosen) for i in range(len(jobs))}) < len(jobs):
        best = max(left, key=lambda key: (apart(key), "." not in key))
        chosen.append(best)
        left.remove(best)
    return [key for key in keys if key in chosen]


def method_name(job: Mapping[str, Any]) -> str:
    """Return the method as a person compares it: a split run is named after its cut policy."""
    if job.get("method") != "splitft":
        return str(job.get("method"))
    policy = str(job.get("cut_policy.method"))
    return "fixed cuts" if policy == "fixed" else policy


def value_text(key: str, value: Any) -> str:
    """Return a value of the job in a few characters; of a path its last part."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ",".join(value_text(key, item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {value_text(key, item)}" for name, item in value.items())
    text = str(value)
    if key.endswith(("_path", "data_files")) and PurePath(text).is_absolute():
        return PurePath(text).name
    return text


def without_effect(job: Mapping[str, Any]) -> Callable[[str], bool]:
    method, policy = job.get("method"), job.get("cut_policy.method")

    def idle(key: str) -> bool:
        if key.startswith("partition."):
            return key in _OF_PARTITION and job.get("partition.method") not in _OF_PARTITION[key]
        if method in WITHOUT_CUTS:
            return key in _OF_CUTS or key.startswith(_OF_POLICY)
        if method == "same_split" or policy == "fixed":
            return key.startswith(_OF_POLICY)
        if key in _OF_ACCURACY:
            return policy in ("resource", "makespan", "schedule")
        if key in _OF_ADAPTING:
            return policy == "schedule"
        return key == "cut_policy.schedule" and policy != "schedule"

    return idle
