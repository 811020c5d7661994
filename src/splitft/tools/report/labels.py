"""Labels of variants: the method, and the keys in which they differ and that matter to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any

LONG = 60  # characters of a label, from which on it names no more keys than needed
_OF_METHOD = ("method", "method_name", "cut_policy.method")
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
_ALGORITHMS = {"server_optimizer": "none", "objective": "plain"}  # keys that name one, and their defaults
_OF_ALGORITHM = {  # keys that nothing reads with these defaults
    **dict.fromkeys(
        ("server_learning_rate", "server_momentum", "server_beta2", "server_tau"), "server_optimizer"
    ),
    "proximal_mu": "objective",
}


def make_labels(jobs: Sequence[Mapping[str, Any]], keys: Collection[str]) -> list[str]:
    """Return a label for each job: its method, then the keys in which they differ and that matter to it.

    Where that grows longer than LONG, fewer keys that still tell the jobs apart.
    """
    rest = [key for key in keys if key not in _OF_METHOD and tells(jobs, key)]
    short = short_names(keys)
    by_method = not keys or any(key in _OF_METHOD for key in keys)

    def labels_with(named: Sequence[str], all_of_them: bool = False) -> list[str]:
        labels = []
        for job in jobs:
            shown = [key for key in named if all_of_them or not without_effect(job, key)]
            names = [method_name(job)] if by_method or all_of_them else []
            if not all_of_them and not _ALGORITHMS.keys().isdisjoint(named):
                names.append(algorithm_name(job))
                shown = [key for key in shown if key not in _ALGORITHMS]
            labels.append(
                ", ".join([*names, *(f"{short[key]} {value_text(key, job.get(key))}" for key in shown)])
            )
        return labels

    labels = labels_with(rest)
    if max(map(len, labels)) > LONG:
        # Leave out every key without which the labels still differ, keys of groups first
        for key in sorted(rest, key=lambda key: "." not in key):
            fewer = labels_with([other for other in rest if other != key])
            if len(set(fewer)) == len(jobs) and all(fewer):
                rest.remove(key)
                labels = fewer
    if len(set(labels)) == len(labels) and all(labels):
        return labels
    # Some keys that seemed idle set jobs apart: name all.
    return labels_with([key for key in keys if key != "method"], all_of_them=True)


def tells(jobs: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether those jobs that read a key have different values of it."""
    values = [job.get(key) for job in jobs if not without_effect(job, key)]
    return any(value != values[0] for value in values)


def short_names(keys: Collection[str]) -> dict[str, str]:
    """Return {key: its last part}, or the whole key where two would be called the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}


def method_name(job: Mapping[str, Any]) -> str:
    """Return the method as a person compares it: a split run is named after its cut policy."""
    if job.get("method_name"):
        return str(job["method_name"])
    if job.get("method") != "splitft":
        return str(job.get("method"))
    policy = str(job.get("cut_policy.method"))
    return "fixed cuts" if policy == "fixed" else policy


def algorithm_name(job: Mapping[str, Any]) -> str:
    """Return a job's server optimizer and objective in short: fedavg where it has neither."""
    return " and ".join(_own_algorithms(job).values()) or "fedavg"


def _own_algorithms(job: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(job[key]) for key, usual in _ALGORITHMS.items() if job.get(key, usual) != usual}


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


def without_effect(job: Mapping[str, Any], key: str) -> bool:
    """Whether a job's method and policy do not read a key."""
    method, policy = job.get("method"), job.get("cut_policy.method")
    if key in _OF_ALGORITHM:
        return _OF_ALGORITHM[key] not in _own_algorithms(job)
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
