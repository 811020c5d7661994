"""One run as curves: what was measured at every evaluation, and what it had cost by then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from splitft.common.levels import levels
from splitft.devices.simulate import PARTS
from splitft.tools.report.runs import RunFolder
from splitft.wire.ledger import by_phase

KINDS = ("activations", "gradients", "labels", "adapter", "control", "evaluation", "held_out")


@dataclass(frozen=True)
class Point:
    """One evaluation of a run, and what training had cost until then."""

    round: int  # after which it was made; 0 is before training
    perplexity: float | None  # of all held-out tokens; None where the run had diverged
    accuracy: float | None  # share of next tokens predicted right
    paper_accuracy: float | None  # the paper's measure, which older runs lack
    bytes_moved: int  # up and down, for training and adapters, without evaluation
    virtual_seconds: float | None  # simulated; None without devices
    interval: float | None = None  # half-width of the perplexity's 95 % interval; 0: of all held-out rows


def points(run: RunFolder) -> list[Point]:
    """Return the evaluations of a run in order."""
    found: list[Point] = []
    moved, seconds = 0, 0.0
    timed = has_virtual_time(run)
    for line in run.rounds:
        moved += sum(training_bytes(line).values())
        seconds += line.get("virtual_seconds") or 0.0
        if _evaluated(line):
            measured = {name: line.get(name) for name in ("perplexity", "accuracy", "paper_accuracy")}
            time = seconds if timed else None
            found.append(Point(int(line["round"]), bytes_moved=moved, virtual_seconds=time, **measured))
    # Samples on the level of all rows.
    shown = levels([line for line in run.rounds if _evaluated(line)])
    return [
        replace(point, perplexity=perplexity, interval=width)
        for point, (perplexity, width) in zip(found, shown, strict=True)
    ]


def has_virtual_time(run: RunFolder) -> bool:
    """Whether devices were simulated in this run."""
    return any(line.get("virtual_seconds") for line in run.rounds)


def bytes_by_kind(run: RunFolder) -> dict[str, Counter[str]]:
    """Return {up or down: {kind: bytes}} of the whole run."""
    totals: dict[str, Counter[str]] = {"up": Counter(), "down": Counter()}
    for line in run.rounds:
        for way, kinds in line.get("bytes", {}).items():
            totals[way].update(kinds)
    return totals


def training_bytes(line: Mapping[str, Any]) -> dict[str, int]:
    """Return {up or down: bytes} of one round, without those of evaluation."""
    by_kind = line.get("bytes")
    if not isinstance(by_kind, dict):
        return {way: line.get(f"bytes_{way}", 0) for way in ("up", "down")}
    return {way: by_phase(by_kind.get(way, {}))["training"] for way in ("up", "down")}


def phase_bytes(run: RunFolder) -> dict[str, int]:
    """Return {training, evaluation, both: bytes} of the whole run, up and down together."""
    ways = [by_phase(kinds) for kinds in bytes_by_kind(run).values()]
    return {phase: sum(way[phase] for way in ways) for phase in ("training", "evaluation", "both")}


def client_names(run: RunFolder) -> list[str]:
    """Return the clients in their order."""
    return list(run.rounds[-1].get("clients", {}))


def devices_of(run: RunFolder) -> dict[str, str]:
    """Return {client: device}; empty where none were simulated."""
    devices, names = run.job.get("devices"), client_names(run)
    if not has_virtual_time(run):
        return {}
    if isinstance(devices, str):
        return dict.fromkeys(names, devices)
    if isinstance(devices, list):
        devices = dict(zip(names, devices, strict=False))
    given: dict[str, Any] = devices or {}
    return {name: str(given[name]) for name in names if name in given}


def cuts_by_round(run: RunFolder) -> dict[str, list[tuple[int, int]]]:
    """Return {client: [(round, cut)]} from the first round on; empty for methods without cuts."""
    found: dict[str, list[tuple[int, int]]] = {}
    for line in run.rounds:
        for name, cut in (line.get("cuts") or {}).items():
            if cut is not None and (line["round"] or len(run.rounds) == 1):
                found.setdefault(name, []).append((int(line["round"]), int(cut)))
    return found


def mean_parts(run: RunFolder) -> dict[str, tuple[float, ...]]:
    """Return {client: virtual seconds of a round by PARTS}, means over the rounds that it took part in."""
    found: dict[str, tuple[float, ...]] = {}
    for name in client_names(run):
        clients = (line.get("clients", {}).get(name, {}) for line in run.rounds)
        timed = [client["virtual"] for client in clients if client.get("virtual")]
        if timed:
            found[name] = tuple(fmean(virtual.get(part) or 0.0 for virtual in timed) for part in PARTS)
    return found


def waited_for(run: RunFolder) -> Counter[str]:
    """Return {client: rounds in which it was the last to finish}."""
    return Counter(line["waited_for"] for line in run.rounds if line.get("waited_for") is not None)


def crossing(xs: Sequence[float], ys: Sequence[float], target: float) -> float | None:
    """Return the x at which y first is `target` or less, on the straight line between the points."""
    for place, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if y <= target:
            if place == 0 or ys[place - 1] == y:
                return x
            before_x, before_y = xs[place - 1], ys[place - 1]
            return before_x + (before_y - target) / (before_y - y) * (x - before_x)
    return None


def _evaluated(line: Mapping[str, Any]) -> bool:
    """A diverged run was evaluated too, though JSON has no number for what came out."""
    clients = line.get("clients", {}).values()
    return line.get("perplexity") is not None or any(client.get("eval_tokens") for client in clients)
