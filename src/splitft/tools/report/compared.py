"""Variants compared with each other, seed by seed: differences, who is better, who is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from splitft.errors import JobError
from splitft.tools.report.groups import Variant
from splitft.tools.report.paired import Paired, paired, ratios
from splitft.tools.report.series import points

# Measures that are compared, and how a difference reads.
MEASURES = {
    "perplexity": ("perplexity at the end", "%"),
    "accuracy": ("accuracy at the end", "percentage points"),
    "virtual_seconds_to_target": ("virtual time to the same perplexity", "%"),
    "bytes_to_target": ("sent to the same perplexity", "%"),
}
_OF_REFERENCE = ("same_split", "splitft/fixed", "fed_lora")  # methods, the first that is there
BySeed = Mapping[int, Mapping[str, float | None]]


def reference_number(variants: Sequence[Variant], wanted: str | None = None) -> int:
    """Return the number of the variant that the others are compared with.

    Raises JobError where a name is wanted that none has.
    """
    labels = [variant.label for variant in variants]
    if wanted is not None:
        if wanted not in labels:
            raise JobError(f"no variant is called {wanted!r}; give --reference one of: {'; '.join(labels)}")
        return labels.index(wanted)
    for name in _OF_REFERENCE:
        for number, variant in enumerate(variants):
            policy = f"{variant.job.get('method')}/{variant.job.get('cut_policy.method')}"
            if name in (variant.job.get("method"), policy):
                return number
    return 0


def differences(own: BySeed, reference: BySeed) -> dict[str, dict[str, Any]]:
    """Return {measure: the paired difference to the reference}; without those that no seed of both has."""
    found = {name: _difference(name, own, reference) for name in MEASURES}
    return {name: _plain(value) for name, value in found.items() if value}


def between(row: Mapping[str, Any], other: Mapping[str, Any], name: str) -> Paired | None:
    """Return a measure of one row of the verdict against another's, in %, by seeds that both have."""
    return _difference(name, row["by_seed"], other["by_seed"])


def better(row: Mapping[str, Any], other: Mapping[str, Any], name: str, side: int) -> bool:
    """Whether the whole interval of the difference lies on one side of zero: -1 is below."""
    found = between(row, other, name)
    return found is not None and found.times(0.01).side == side


def read_paired(plain: Mapping[str, Any]) -> Paired:
    """Return a difference as `differences` gives it, as an object again."""
    return Paired(tuple(plain["values"]), plain["mean"], plain["sd"], plain["low"], plain["high"])


def equal_variants(variants: Sequence[Variant]) -> list[list[str]]:
    """Return groups of labels whose runs are the same to the last digit, at all evaluations of all seeds."""
    groups: dict[str, list[str]] = {}
    for variant in variants:
        seen = [
            (run.seed, [(p.round, p.perplexity, p.accuracy) for p in points(run)]) for run in variant.runs
        ]
        if any(rows for _, rows in seen):
            groups.setdefault(repr(seen), []).append(variant.label)
    return [labels for labels in groups.values() if len(labels) > 1]


def _difference(name: str, own: Mapping[Any, Any], reference: Mapping[Any, Any]) -> Paired | None:
    """Of an accuracy in percentage points, of all else in %."""
    ours, theirs = ({seed: values[name] for seed, values in side.items()} for side in (own, reference))
    if name == "accuracy":
        both = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
        return paired([100 * (a - b) for a, b in both if a is not None and b is not None])
    # A mean over those seeds alone that reached the target would flatter the variant.
    if name.endswith("_to_target") and None in (*ours.values(), *theirs.values()):
        return None
    found = paired([ratio - 1 for ratio in ratios(ours, theirs)])
    return found.times(100) if found else None


def _plain(found: Paired) -> dict[str, Any]:
    return asdict(found) | {"values": list(found.values)}
