"""The verdict: what every variant reached and what it cost, as plain values and in a sentence or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from splitft.tools.report.compared import better, between, differences, equal_variants, reference_number
from splitft.tools.report.groups import Variant, spread
from splitft.tools.report.paired import Paired, signed
from splitft.tools.report.runs import RunFolder
from splitft.tools.report.series import Point, crossing, has_virtual_time, phase_bytes, points, training_bytes
from splitft.tools.report.units import figure, time_unit

ALONE = "local_only"
REFERENCES = (ALONE, "centralized")  # no clients that train together: other times say little beside theirs
MOST_NAMED = 6  # variants in a sentence


def report_data(variants: Sequence[Variant], reference: str | None = None) -> dict[str, Any]:
    """Return the verdict table of variants as values that JSON can hold.

    reference: the label of the variant that the others are compared with, seed by seed (`against`); by
    default one whose cuts do not move. Raises JobError where no variant has it.

    "To the same perplexity" means the lowest that every run reached. Bytes count training and adapters, up
    and down, without evaluation. A measure is None where no run of the variant has it, else {mean, sd, low,
    high, count} over seeds; sd is None with one seed. equal: variants that are the same to the last digit, at
    every evaluation with every seed.
    """
    target = common_target(variants)
    number = reference_number(variants, reference)
    by_seed = [{run.seed: _values(run, target) for run in variant.runs} for variant in variants]
    rows = [
        {
            "label": variant.label,
            "method": variant.job["method"],
            "differs": dict(variant.differs),
            "seeds": [run.seed for run in variant.runs],
            "runs": [str(run.path) for run in variant.runs],
            "left_out": [{"run": str(run.path), "why": why} for run, why in variant.left_out],
            "interrupted": variant.interrupted,
            "rounds": min(run.last_round for run in variant.runs),
            "rounds_asked": variant.job["rounds"],
            "random_weights": any(run.summary.get("random_weights") for run in variant.runs),
            "diverged": sum(_diverged(run) for run in variant.runs),
            "unchanged": sum(
                run.finished and run.summary.get("adapter_changed") is False for run in variant.runs
            ),
            **_spreads(list(own.values())),
            "by_seed": {str(seed): values for seed, values in own.items()},
            "against": {} if own is by_seed[number] else differences(own, by_seed[number]),
        }
        for variant, own in zip(variants, by_seed, strict=True)
    ]
    return {
        "target_perplexity": target,
        "reference": variants[number].label if len(variants) > 1 else None,
        "equal": equal_variants(variants),
        "variants": rows,
    }


def common_target(variants: Sequence[Variant]) -> float | None:
    """Return the lowest perplexity that all runs reached at some evaluation; None for a single variant.

    local_only, which learns from no one, does not count beside two others: it would set a target so easy
    that it tells nothing about them.
    """
    learning = [variant for variant in variants if variant.job.get("method") != ALONE]
    chosen = learning if len(learning) > 1 else variants
    lowest = []
    for run in (run for variant in chosen for run in variant.runs):
        values = [p.perplexity for p in points(run) if p.perplexity is not None]
        if values and not _diverged(run):
            lowest.append(min(values))
    return max(lowest) if lowest and len(variants) > 1 else None


def target_note(data: dict[str, Any]) -> str:
    """Return what the perplexity to reach is; empty where there is none."""
    if data["target_perplexity"] is None:
        return ""
    return (
        f"Perplexity {figure(data['target_perplexity'])} is the lowest that every run reached{_aside(data)}; "
        "between evaluations, time and bytes are read off a straight line; – where a seed never got there."
    )


def sentences(data: dict[str, Any]) -> list[str]:
    """Return what the table says, in words; nothing for a single variant or for random weights."""
    rows = data["variants"]
    if len(rows) < 2 or any(row["random_weights"] for row in rows):
        return []
    return [text for text in (*equal_sentences(data), _best_perplexity(data), _fastest(data)) if text]


def equal_sentences(data: dict[str, Any]) -> list[str]:
    """Return which variants are the same: a picture shows one line for all of them."""
    return [
        f"{listed(names)} are the same to the last digit, at every evaluation"
        f"{' and with every seed' if _seeds(data) > 1 else ''}: perplexity and accuracy are one curve."
        for names in data["equal"]
    ]


def _fastest(data: dict[str, Any]) -> str:
    timed = [row for row in data["variants"] if row["virtual_seconds_to_target"]]
    together = [row for row in timed if row["method"] not in REFERENCES]
    timed = together if len(together) > 1 else timed
    if len(timed) < 2:
        return ""
    timed.sort(key=lambda row: row["virtual_seconds_to_target"]["mean"])
    means = [row["virtual_seconds_to_target"]["mean"] for row in timed]
    unit, size = time_unit(means[-1])
    parts = [f"{timed[0]['label']} {figure(means[0] / size, 3)} {unit}"]
    for row, mean in zip(timed[1:MOST_NAMED], means[1:], strict=False):
        times = f" ({mean / means[0]:.1f} times as long)" if means[0] > 0 else ""
        parts.append(f"{row['label']} {figure(mean / size, 3)} {unit}{times}")
    more = f"; {len(timed) - MOST_NAMED} more in the table" if len(timed) > MOST_NAMED else ""
    return f"Simulated time to perplexity {figure(data['target_perplexity'])}: {', '.join(parts)}{more}."


def _aside(data: dict[str, Any]) -> str:
    alone = [row["label"] for row in data["variants"] if row["method"] == ALONE]
    learning = len(data["variants"]) - len(alone)
    return f" ({', '.join(alone)} aside)" if alone and learning > 1 else ""


def _best_perplexity(data: dict[str, Any]) -> str:
    rows: Sequence[dict[str, Any]] = data["variants"]
    known = sorted((row for row in rows if row["perplexity"]), key=lambda row: row["perplexity"]["mean"])
    if len(known) < 2:
        return ""
    lowest = known[0]["perplexity"]["mean"]
    best = [row for row in known if row["perplexity"]["mean"] - lowest <= 1e-9 * lowest]
    names = listed([row["label"] for row in best])
    if len(best) == len(known):
        same = any(len(names) == len(known) for names in data["equal"])
        return "" if same else f"{names} end at the same perplexity, {figure(lowest)}."
    second = known[len(best)]
    text = (
        f"{names} {'ends' if len(best) == 1 else 'end'} at the lowest mean perplexity, {figure(lowest)} "
        f"against {figure(second['perplexity']['mean'])} of {second['label']}"
    )
    found = between(best[0], second, "perplexity")
    if found is None or found.low is None:
        return f"{text}; with one seed each, chance may explain it."
    if better(best[0], second, "perplexity", -1):
        return f"{text}: {_interval(found)}, paired by {len(found.values)} seeds."
    return f"{text}, which decides nothing: {_interval(found)}, paired by {len(found.values)} seeds."


def _interval(found: Paired) -> str:
    low, high = found.low or 0.0, found.high or 0.0
    return f"{signed(found.mean)} %, 95 % interval {signed(low)} to {signed(high)} %"


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _seeds(data: dict[str, Any]) -> int:
    return max(len(row["seeds"]) for row in data["variants"])


def _spreads(values: Sequence[dict[str, float | None]]) -> dict[str, dict[str, Any] | None]:
    """Return every measure of a variant over its runs; None where no run has it."""
    found: dict[str, dict[str, Any] | None] = {}
    for name in values[0]:
        own = [value for run in values if (value := run[name]) is not None]
        # A mean over those seeds alone that reached the target would flatter the variant.
        complete = len(own) == len(values) or not name.endswith("_to_target")
        measured = spread(list(map(float, own))) if complete else None
        found[name] = asdict(measured) if measured else None
    return found


def _values(run: RunFolder, target: float | None) -> dict[str, float | None]:
    """Return every measure of a run; None where it has none."""
    evaluated = points(run)
    timed = has_virtual_time(run)
    at_the_end = ("perplexity", "accuracy", "paper_accuracy")
    return {
        **{name: getattr(evaluated[-1], name) if evaluated else None for name in at_the_end},
        **{f"bytes_{way}": sum(training_bytes(line)[way] for line in run.rounds) for way in ("up", "down")},
        **{f"bytes_{phase}": float(number) for phase, number in phase_bytes(run).items()},
        "virtual_seconds": sum(line.get("virtual_seconds") or 0.0 for line in run.rounds) if timed else None,
        "virtual_seconds_to_target": _until_target(evaluated, "virtual_seconds", target),
        "bytes_to_target": _until_target(evaluated, "bytes_moved", target),
        "trained_parameters": run.summary.get("parameters", {}).get("adapter"),
    }


def _until_target(evaluated: Sequence[Point], field: str, target: float | None) -> float | None:
    if target is None:
        return None
    known = [(getattr(point, field), point.perplexity) for point in evaluated]
    pairs = [(x, y) for x, y in known if x is not None and y is not None]
    return crossing([x for x, _ in pairs], [y for _, y in pairs], target)


def _diverged(run: RunFolder) -> bool:
    evaluated = points(run)
    return bool(run.summary.get("diverged")) or (bool(evaluated) and evaluated[-1].perplexity is None)
