"""The paper's tables beside the study's runs of its length: what each change of a setting did. Pure.

Levels do not compare: model, text and the meaning of accuracy and seconds differ. Changes from one cell of
a table to another may, so both are shown, the study's with its interval over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from paper_counter import CELLS, RANK

from splitft.tools.report.units import figure
from studylib.claims import signed_percent
from studylib.results import Group, Seeds, by_seed, paired, relative_differences

# Tables I and II of arXiv 2604.26388 by (cut, r_cut): maximum accuracy, mean elapsed seconds. Their traffic
# is `paper_counter.CELLS`'. One setting, (2, 8), has a time in each.
TABLE_I = {(2, 8): (0.0606, 810), (10, 8): (0.0629, 1105), (2, RANK): (0.0617, 6897)}
TABLE_II = {(2, 1): (0.0579, 2278), (2, 8): (0.0606, 1598)}
MIB = {(cell.cut, cell.r_cut): cell.mib for cell in CELLS}
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
    table: Mapping[tuple[int, int], tuple[float, float]]
    before: tuple[int, int]
    after: tuple[int, int]
    sweep: str
    arm: str
    against: str


CHANGES = (
    Change("cut 2 to 10", TABLE_I, (2, 8), (10, 8), "long-cut", "cut 10", "cut 2"),
    Change("r_cut 8 to 1", TABLE_II, (2, 8), (2, 1), "long-r-cut", "r_cut 1", "r_cut 8"),
    Change("r_cut 16 to 8", TABLE_I, (2, RANK), (2, 8), "long-r-cut", "r_cut 8", "r_cut 16"),
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
    old, new = ((*change.table[cell], MIB[cell]) for cell in (change.before, change.after))
    rows = []
    for measure, unit, factor, column in MEASURES:
        before, after = arms[change.against], arms[change.arm]
        result = paired(relative_differences(after, before, measure))
        if result is None or result.low is None or result.high is None:
            continue
        interval = f"{signed_percent(result.low)} to {signed_percent(result.high)}"
        rows.append([
            change.name, WORDS[measure], from_to(old[column], new[column], column),
            signed_percent(new[column] / old[column] - 1),
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
