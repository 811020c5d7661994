"""From runs to figures: what each arm reached with each seed, and comparisons paired by seed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from splitft.tools.report.paired import Paired, paired
from splitft.tools.report.paired import ratios as paired_ratios
from splitft.tools.report.runs import RunFolder
from splitft.tools.report.series import PARTS, crossing, cuts_by_round, mean_parts, points

__all__ = ["Paired", "paired"]  # with what follows, all that pages and claims count with

Seeds = Mapping[str, Mapping[str, Any]]  # {seed: figures}; seeds are texts, as in JSON
Group = Mapping[str, Seeds]  # {arm: seeds}


def by_seed(arm: Seeds, measure: str) -> dict[str, float]:
    """Return {seed: value} of the seeds that have the measure."""
    values = {seed: figures.get(measure) for seed, figures in arm.items()}
    return {seed: float(value) for seed, value in values.items() if value is not None}


def relative_differences(arm: Seeds, baseline: Seeds, measure: str) -> list[float]:
    """Return arm / baseline − 1 for every seed that both have."""
    return [ratio - 1 for ratio in ratios(arm, baseline, measure)]


def ratios(arm: Seeds, baseline: Seeds, measure: str) -> list[float]:
    """Return arm / baseline for every seed that both have; one where both are nothing."""
    return paired_ratios(by_seed(arm, measure), by_seed(baseline, measure))


def add_targets(group: Group) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the group with, for each seed, what every arm needed to the same perplexity.

    The target of a seed is the worst final perplexity among the arms that have the seed, so that all reach
    it; between two evaluations the curve is a straight line. Sets `target`, `seconds_to_target`,
    `bytes_to_target` and `rounds_to_target`; None where an arm diverged or no device was simulated.
    """
    copy = {arm: {seed: dict(figures) for seed, figures in seeds.items()} for arm, seeds in group.items()}
    for seed in {seed: None for seeds in group.values() for seed in seeds}:
        present = [seeds[seed] for seeds in copy.values() if seed in seeds]
        finals = [figures["perplexity"] for figures in present]
        target = max(finals) if all(final is not None for final in finals) else None
        for figures in present:
            figures["target"] = target
            for name, column in (("rounds", 0), ("bytes", 1), ("seconds", 2)):
                figures[f"{name}_to_target"] = to_target(figures["curve"], column, target)
    return copy


def to_target(curve: Sequence[Sequence[float | None]], column: int, target: float | None) -> float | None:
    """Return the value of a column of the curve where its last column, perplexity, first is at the target."""
    known = [(row[column], row[-1]) for row in curve]
    pairs = [(x, y) for x, y in known if x is not None and y is not None]
    if target is None or len(pairs) < len(curve):
        return None
    return crossing([x for x, _ in pairs], [y for _, y in pairs], target)


def measure(run: RunFolder) -> dict[str, Any]:
    """Return a run's figures: what it reached, what it cost, its curve, and who holds what in the end.

    curve: rows of round, bytes, virtual seconds, perplexity. transfer_share: of the time of the client that
    is busy longest; None without devices.
    """
    evaluated = points(run)
    last = evaluated[-1]
    parts = mean_parts(run)
    busy = {name: sum(row[: PARTS.index("idle")]) for name, row in parts.items()}
    slowest = max(busy, key=lambda name: busy[name]) if busy else None
    share = parts[slowest][PARTS.index("transfer")] / busy[slowest] if slowest and busy[slowest] else None
    return {
        "perplexity": last.perplexity,
        "accuracy": last.accuracy,
        "paper_accuracy": last.paper_accuracy,
        "bytes": last.bytes_moved,
        "virtual_seconds": last.virtual_seconds,
        "training_seconds": run.summary.get("training_seconds"),
        "transfer_share": share,
        "final_cuts": {name: cuts[-1][1] for name, cuts in cuts_by_round(run).items()},
        "curve": [[p.round, p.bytes_moved, p.virtual_seconds, p.perplexity] for p in evaluated],
    }
