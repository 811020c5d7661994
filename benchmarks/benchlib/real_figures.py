"""Arithmetic of the benchmark of real seconds: quotas, profiles for the virtual clock, summaries. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from studylib.results import paired

Run = Mapping[str, Any]
SAME, SPLITFT, MAKESPAN = "same cut", "splitft", "makespan"


def shares(fastest: float, slowdowns: Sequence[float]) -> list[float]:
    """Return the quotas of devices, in cores, of which the first is the fastest."""
    return [round(fastest / slowdown, 6) for slowdown in slowdowns]


def seconds_to(run: Run, perplexity: float) -> float | None:
    """Return the seconds after which an evaluation first showed this perplexity or less; None: it never did.

    Nothing is read between two evaluations: a user has the adapter of a round, not of half of one.
    """
    for row in run["rounds"]:
        if row["perplexity"] is not None and row["perplexity"] <= perplexity:
            return float(row["seconds"])
    return None


def curves_agree(runs: Sequence[Run]) -> bool:
    """Return whether all runs have the same perplexities, to the last bit, round by round."""
    curves = [[row["perplexity"] for row in run["rounds"]] for run in runs]
    return all(curve == curves[0] for curve in curves)


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean of paired figures with its 95 % t interval, and all of them."""
    found = paired(values)
    assert found is not None
    return {"mean": found.mean, "low": found.low, "high": found.high, "all": list(found.values)}


def compare(runs: Mapping[str, Mapping[str, Run]]) -> dict[str, Any]:
    """Return {arm: figures} of the seeds that all arms have; runs: {arm: {seed: run}}.

    sooner: how many times sooner the perplexity of the same cut's last evaluation is reached, seed by seed.
    """
    seeds = [seed for seed in runs[SAME] if all(seed in of_arm for of_arm in runs.values())]
    found: dict[str, Any] = {}
    for arm, of_arm in runs.items():
        here = [of_arm[seed] for seed in seeds]
        there = [runs[SAME][seed] for seed in seeds]
        targets = [run["rounds"][-1]["perplexity"] for run in there]
        needed = [seconds_to(run, target) for run, target in zip(here, targets, strict=True)]
        if not seeds or None in needed:
            found[arm] = {"seeds": seeds, "seconds": needed}
            continue
        own = [float(seconds or 0.0) for seconds in needed]
        base = [float(seconds_to(run, t) or 0.0) for run, t in zip(there, targets, strict=True)]
        starts = [run["start_seconds"] for run in here]
        base_starts = [run["start_seconds"] for run in there]
        found[arm] = {
            "seeds": seeds,
            "seconds": own,
            "sooner": interval([b / o for b, o in zip(base, own, strict=True)]),
            "sooner_with_start": interval([
                (b + bs) / (o + os)
                for b, bs, o, os in zip(base, base_starts, own, starts, strict=True)
            ]),
            "training_seconds": [sum(r["round_seconds"] for r in run["rounds"]) for run in here],
            "evaluation_seconds": [sum(r["evaluation_seconds"] for r in run["rounds"]) for run in here],
        }  # fmt: skip
    return found


def rates(free: Sequence[Mapping[str, float]], work: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the FLOP/s of a client and of the server on a whole core, and how many the server can use.

    free: {party: CPU seconds} of some rounds in which one process computes at a time, and the `wall` seconds
    of each; work: {party: FLOPs} of the same rounds. The clients are one kind of machine: theirs is a mean.
    server_cores: CPU seconds of the server over the seconds in which no client computes. Two threads use less
    than two cores, since part of the work is one thread's.
    """
    clients = [name for name in work[0] if name != "server"]
    total = {name: sum(row[name] for row in free) for name in free[0]}
    done = {name: sum(row[name] for row in work) for name in work[0]}
    computing = sum(total[name] for name in clients)
    return {
        "client": sum(done[name] for name in clients) / computing,
        "server": done["server"] / total["server"],
        "server_cores": total["server"] / (total["wall"] - computing),
    }


def work_of(records: Sequence[Run], flops: float) -> list[dict[str, float]]:
    """Return {party: FLOPs} of each round, from a virtual clock on which all had this many FLOP/s."""
    found = []
    for record in records:
        times = {name: own["virtual"] for name, own in record["clients"].items()}
        row = {name: own["compute"] * flops for name, own in times.items()}
        found.append(row | {"server": sum(own["server"] for own in times.values()) * flops})
    return found


def profiles(
    rate: Mapping[str, float],
    cores: Mapping[str, float],
    mbits: Mapping[str, float],
    rtt_ms: float,
) -> dict[str, Any]:
    """Return the keys of a job with these devices: FLOP/s are those of a core, times the quota.

    rate: Of `rates`; the server has its quota of cores, but no more than it can use. cores: of the server and
    of every client. mbits: of every client. The round trip is all the client's.
    """
    server_cores = min(cores["server"], rate["server_cores"])
    fast = {"preset": "gpu_server", "latency_ms": 0.0}  # its link is no bound
    return {
        "devices": {name: f"device-{name}" for name in mbits},
        "device_profiles": {
            "this-server": {**fast, "flops": rate["server"] * server_cores},
            **{
                f"device-{name}": {
                    "preset": "workstation", "flops": rate["client"] * cores[name],
                    "uplink_mbps": mbit, "downlink_mbps": mbit, "latency_ms": rtt_ms / 2,
                }
                for name, mbit in mbits.items()
            },
        },
        "server_device": "this-server",
    }  # fmt: skip


def schedule_of(run: Run) -> dict[str, list[int]]:
    """Return `cut_policy.schedule` with the cuts that a run's rounds had."""
    return {str(row["round"]): list(row["cuts"].values()) for row in run["rounds"] if row["round"]}


def against_clock(run: Run, records: Sequence[Run]) -> dict[str, Any]:
    """Compare the real seconds of training rounds with the virtual ones of a run with the same cuts."""
    real = [row["round_seconds"] for row in run["rounds"] if row["round"]]
    virtual = [record["virtual_seconds"] for record in records if record["round"]]
    each = [v / r - 1 for v, r in zip(virtual, real, strict=True)]
    return {
        "real": real,
        "virtual": virtual,
        "of_all": sum(virtual) / sum(real) - 1,
        "mean_of_rounds": fmean(map(abs, each)),
    }


def page_rows(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of a page: a row an arm."""
    seeds = ", ".join(result["arms"][SAME]["seeds"])
    rows = [
        f"| cuts | s to the same perplexity, seeds {seeds} | times sooner [95 %] | with start-up | "
        "of it evaluations, s | virtual clock |",
        "|---|---|---|---|---|---|",
    ]
    for arm, of in result["arms"].items():
        clock = result["clock"].get(arm, {}).values()
        cells = [
            arm,
            ", ".join(f"{seconds:.0f}" for seconds in of["seconds"]),
            _sooner(of["sooner"]) if arm != SAME else "",
            _sooner(of["sooner_with_start"]) if arm != SAME else "",
            ", ".join(f"{seconds:.0f}" for seconds in of["evaluation_seconds"]),
            ", ".join(f"{100 * one['of_all']:+.1f} %".replace("-", "−") for one in clock),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _sooner(of: Mapping[str, Any]) -> str:
    if of["low"] is None:
        return f"{of['mean']:.2f}"
    return f"{of['mean']:.2f} [{of['low']:.2f}, {of['high']:.2f}]"
