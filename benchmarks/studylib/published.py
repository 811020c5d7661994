"""The paper's tables beside the study's runs of its length: what each change of a setting did. Pure.

Levels do not compare: model, text and the meaning of accuracy and seconds differ. Changes from one cell of
a table to another may, so both are shown, the study's with its interval over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from splitft.tools.report.units import figure
from studylib.claims import signed_percent
from studylib.results import Group, Seeds, by_seed, paired, relative_differences

# Tables I and II of arXiv 2604.26388: maximum accuracy, mean elapsed seconds, communication ("MB" are MiB).
# Table I's cut 2 and Table II's r_cut 8 are one setting with two times.
TABLE_I = {
    "2": (0.0606, 810, 3475.4), "4": (0.0571, 863, 3534.4), "6": (0.0605, 934, 3593.4),
    "8": (0.0621, 1113, 3652.4), "10": (0.0629, 1105, 3711.4), "none": (0.0617, 6897, 3490.1),
}  # fmt: skip
TABLE_II = {
    "1": (0.0579, 2278, 3462.5), "2": (0.0585, 2138, 3464.3), "4": (0.0589, 2293, 3468.0),
    "8": (0.0606, 1598, 3475.4),
}  # fmt: skip
ACCURACY, SECONDS, TRAFFIC = range(3)
# A measure of the study, its unit, the factor to it, and the paper's measure of the same name.
MEASURES = (
    ("accuracy", "%", 100.0, ACCURACY),
    ("paper_accuracy", "%", 100.0, ACCURACY),
    ("virtual_seconds", "s", 1.0, SECONDS),
    ("bytes", "MB", 1e-6, TRAFFIC),
)
WORDS = {"accuracy": "accuracy", "paper_accuracy": "accuracy as the paper counts it",
         "virtual_seconds": "time", "bytes": "traffic"}  # fmt: skip
NOTE = (
    "The paper's runs have GPT2-small, Wikitext-2, rows of 128 tokens and 20 local steps a turn; those here "
    "SmolLM2-135M, speeches, rows of up to 32 tokens and 10 local steps, and adapters travel down, too. In "
    "so short rows adapters are a larger share of the traffic, so that cut and rank change it more; in the "
    "paper's own setting a change here is twice the paper's "
    "([table](../../benchmarks/README.md#the-papers-traffic-and-ours)). The paper's seconds are one "
    "machine's, the ones here virtual. The paper's accuracy compares a prediction with "
    "[the token before](../paper.md#published-accuracy); both counts stand here. Its tables have no "
    "intervals, and its sources at hand no figures of adaptive cuts."
)


@dataclass(frozen=True)
class Change:
    """From one cell of the paper's tables to another, and the arms of the study that differ alike."""

    name: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    sweep: str
    arm: str
    against: str


CHANGES = (
    Change("cut 2 to 10", TABLE_I["2"], TABLE_I["10"], "long-cut", "cut 10", "cut 2"),
    Change("r_cut 8 to 1", TABLE_II["8"], TABLE_II["1"], "long-r-cut", "r_cut 1", "r_cut 8"),
    Change("r_cut 16 to 8", TABLE_I["none"], TABLE_I["2"], "long-r-cut", "r_cut 8", "r_cut 16"),
)


def published_section(sweeps: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the paragraphs; none where no long run is finished. sweeps: as `pages.page` takes them."""
    rows = [row for change in CHANGES if change.sweep in sweeps
            for row in change_rows(change, sweeps[change.sweep]["groups"]["all"])]  # fmt: skip
    if not rows:
        return []
    heading = ["change", "measure", "published", "published change", "here", "change here [95 %]"]
    lines = [heading, ["---"] * 2 + ["---:"] * 4, *rows]
    return ["## The paper's tables beside runs of its length", NOTE,
            "\n".join(f"| {' | '.join(line)} |" for line in lines)]  # fmt: skip


def change_rows(change: Change, arms: Group) -> list[list[str]]:
    """Return a row for each measure that both arms have."""
    if change.arm not in arms or change.against not in arms:
        return []
    rows = []
    for measure, unit, factor, column in MEASURES:
        before, after = arms[change.against], arms[change.arm]
        result = paired(relative_differences(after, before, measure))
        if result is None or result.low is None or result.high is None:
            continue
        interval = f"{signed_percent(result.low)} to {signed_percent(result.high)}"
        rows.append([
            change.name, WORDS[measure], from_to(change.before[column], change.after[column], column),
            signed_percent(change.after[column] / change.before[column] - 1),
            f"{_mean(before, measure, factor)} → {_mean(after, measure, factor)} {unit}",
            f"{signed_percent(result.mean)} [{interval}]",
        ])  # fmt: skip
    return rows


def from_to(before: float, after: float, column: int) -> str:
    """Return two cells of the paper as it prints them."""
    if column == ACCURACY:
        return f"{before:.4f} → {after:.4f}".replace("0.", ".")
    unit = ("", "s", "MiB")[column]
    return f"{before:g} → {after:g} {unit}"


def _mean(arm: Seeds, measure: str, factor: float) -> str:
    return figure(factor * fmean(by_seed(arm, measure).values()))
