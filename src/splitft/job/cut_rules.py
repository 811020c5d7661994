"""Rules that tie together the keys about cuts and devices. A pure function, free of pydantic."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_ROUND = re.compile(r"[1-9][0-9]*")


def broken_cut_rules(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, problem) for every rule about cuts and devices that `job` breaks; see `broken_rules`."""
    for key in ("cuts", "devices"):
        if key in job and isinstance(job[key], list):
            problem = _length_problem(job, job[key])
            if problem:
                yield key, problem

    method, devices = job.get("cut_policy.method"), job.get("devices")
    measured = job.get("network.clients") is not None  # over a network, what steps take is measured
    if method in ("resource", "makespan") and "devices" in job and devices is None and not measured:
        yield (
            "devices",
            f"cut_policy.method {method} goes by the clients' devices: set them, e.g. devices: laptop",
        )

    low, high = job.get("cut_policy.min_cut"), job.get("cut_policy.max_cut")
    if low is not None and high is not None and low > high:
        yield "cut_policy.min_cut", f"{low} is more than cut_policy.max_cut ({high})"
    for cut in job["cuts"] if isinstance(job.get("cuts"), list) else [job.get("cuts")]:
        problem = _bound_problem(job, cut)
        if problem:
            yield "cuts", problem
            break

    # Every client starts with weight 1.
    if job.get("cut_policy.w_min", 1) > 1:
        yield (
            "cut_policy.w_min",
            f"must be at most 1, where every weight starts, not {job['cut_policy.w_min']:g}",
        )
    if job.get("cut_policy.w_max", 1) < 1:
        yield (
            "cut_policy.w_max",
            f"must be at least 1, where every weight starts, not {job['cut_policy.w_max']:g}",
        )

    if method is not None and "cut_policy.schedule" in job:
        schedule = job["cut_policy.schedule"]
        if method == "schedule" and not schedule:
            yield "cut_policy.schedule", "method schedule needs at least one entry, e.g. {1: 2, 10: 4}"
        elif method != "schedule" and schedule is not None:
            yield "cut_policy.schedule", f"is for method schedule, not {method}: set the method, or remove it"
        for problem in _entry_problems(job, schedule or {}):
            yield "cut_policy.schedule", problem


def _entry_problems(job: Mapping[str, Any], schedule: Mapping[str | int, Any]) -> Iterator[str]:
    for round_, entry in schedule.items():
        if not _ROUND.fullmatch(str(round_)):
            yield f"{round_!r} is not the number of a round: 1, 2, ..."
        problem = _length_problem(job, entry) if isinstance(entry, list) else None
        for cut in entry if isinstance(entry, list) else [entry]:
            problem = problem or _bound_problem(job, cut)
        if problem:
            yield f"round {round_}: {problem}"


def _length_problem(job: Mapping[str, Any], entries: list[Any]) -> str | None:
    """One entry per client. Natural sites are counted when the data are read: the run checks theirs."""
    clients, partition = job.get("clients"), job.get("partition.method")
    if clients is None or partition in (None, "by_column", "files") or len(entries) == clients:
        return None
    return f"needs one entry per client: clients is {clients}, the list has {len(entries)}"


def _bound_problem(job: Mapping[str, Any], cut: int | None) -> str | None:
    low, high = job.get("cut_policy.min_cut"), job.get("cut_policy.max_cut")
    if cut is None or (low is not None and high is not None and low > high):
        return None
    if low is not None and cut < low:
        return f"{cut} is less than cut_policy.min_cut ({low})"
    if high is not None and cut > high:
        return f"{cut} is more than cut_policy.max_cut ({high})"
    return None
