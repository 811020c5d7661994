"""One picture a sweep, drawn by the report's own charts: differences with intervals, and the way there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from splitft.common.figures import style
from splitft.common.files import writing
from splitft.common.text import short
from splitft.tools.report.charts.compose import MOST_COLUMNS, Composed, in_rows
from splitft.tools.report.charts.curves import Curve, curve_chart, height_of
from splitft.tools.report.charts.dots import interval_chart, reach
from splitft.tools.report.charts.svg import FONT, Chart
from splitft.tools.report.paired import LEAST, Paired, paired
from splitft.tools.report.verdict import listed
from studylib.results import Group, Seeds, by_seed, relative_differences

Row = list[tuple[str, Chart]]
Difference = tuple[str, int, Paired]
ROUND, SECONDS, PERPLEXITY = 0, 2, 3  # columns of a curve
COMPARED = {
    "perplexity": "perplexity at the end",
    "seconds_to_target": "time to the same perplexity",
}
LIKE = 3.0  # groups whose curves are so much longer than others' have a scale of their own
SEEDS = (
    "Large dot: mean of the differences, paired by seed; line: its 95 % interval; small dots: seeds; a ring: "
    "the interval holds 0. Curves: mean over seeds; band: lowest to highest seed."
)


def plot_sweep(groups: Mapping[str, Group], title: str, path: Path) -> bool:
    """Write a PNG: differences to each group's first arm with intervals, then a panel of curves a group.

    Differences are paired by seed, as the claims are judged; what is the same is said. The curves go over
    virtual time where there are devices, else over rounds; all have one scale of perplexity, and one of time
    where they are alike in length. Returns whether there was anything to draw.
    """
    shown = {
        name: arms for name, arms in groups.items() if any(by_seed(a, "perplexity") for a in arms.values())
    }
    if not shown:
        return False
    names = list(dict.fromkeys(arm for arms in shown.values() for arm in arms))
    with style(FONT):
        rows, notes = _differences(shown, names)
        panels = _curve_panels(shown, names)
        if len(shown) == 1:  # all of it side by side
            rows = [[chart for row in rows for chart in row] + panels]
        else:
            rows = [*_together(rows), *in_rows(panels, _columns(len(panels)))]
        lines = [(name, number) for number, name in enumerate(names)]
        png = Composed(rows, lines=lines, heading=title, notes=[SEEDS, *notes]).png()
    with writing(path, "free the disk"):
        path.write_bytes(png)
    return True


def _together(rows: Sequence[Row]) -> list[Row]:
    """Return rows of charts, two in one where they fit."""
    merged: list[Row] = []
    for row in rows:
        if merged and len(merged[-1]) + len(row) <= MOST_COLUMNS:
            merged[-1] = merged[-1] + row
        else:
            merged.append(row)
    return merged


def _columns(panels: int) -> int:
    """As few rows as there must be, and no last row of one where two rows can share."""
    rows = -(-panels // MOST_COLUMNS)
    return -(-panels // rows)


def _differences(groups: Mapping[str, Group], names: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Rows of charts, a measure each, of arms that differ, and what is the same in words."""
    rows, notes = [], []
    for measure, heading in COMPARED.items():
        differ: dict[str, list[Difference]] = {}  # of several groups, a chart an arm
        same: dict[tuple[str, ...], list[str]] = {}
        for group, arms in groups.items():
            first, *others = arms
            found = {arm: paired(relative_differences(arms[arm], arms[first], measure)) for arm in others}
            known = {arm: own for arm, own in found.items() if own}
            alike = [arm for arm, own in known.items() if max(map(abs, own.values)) <= LEAST]
            for arm, own in known.items():
                if arm not in alike:
                    chart, label = ("", arm) if len(groups) == 1 else (arm, group)
                    differ.setdefault(chart, []).append((label, names.index(arm), own.times(100)))
            if alike:
                exact = not any(any(known[arm].values) for arm in alike)
                words = "the same to the last digit" if exact else "the same within 0.01 %"
                same.setdefault((words, first, *alike), []).append(group)
        ends = reach([own for rows_ in differ.values() for _, _, own in rows_]) if differ else None
        baseline = short(listed(list(dict.fromkeys(next(iter(arms)) for arms in groups.values()))), 24)
        row = []
        for arm, own_rows in differ.items():
            what, brief = f"difference to {baseline}", len(groups) > 1
            shown = "mean" if brief else "mean, 95 % interval"
            chart_ = interval_chart(own_rows, what, "%", f"variant ({shown})", ends, brief=brief)
            if chart_:
                row.append((f"{arm}: {heading}" if arm else _capital(heading), chart_))
        rows += [row] if row else []
        for (words, *arms), own_groups in same.items():
            where = "" if len(groups) == 1 else f" in {'; '.join(own_groups)}"
            notes.append(f"{_capital(heading)}: {listed(arms)} are {words}{where}.")
    return rows, notes


def _curve_panels(groups: Mapping[str, Group], names: Sequence[str]) -> list[tuple[str, Chart]]:
    """Perplexity over time or rounds, a panel a group."""
    rows = [
        row for arms in groups.values() for arm in arms.values() for f in arm.values() for row in f["curve"]
    ]
    timed = all(row[SECONDS] is not None for row in rows)
    x = SECONDS if timed else ROUND
    drawn = {
        group: [c for arm, seeds in arms.items() if (c := _curve(arm, names.index(arm), seeds, x))]
        for group, arms in groups.items()
    }
    ends = height_of([curve for curves in drawn.values() for curve in curves])
    lengths = {group: max(curve.x[-1] for curve in curves) for group, curves in drawn.items()}
    x_name, x_unit = ("virtual time", "s") if timed else ("round", "0: before training")
    panels = []
    for group, curves in drawn.items():
        alike = [own for own in lengths.values() if own / LIKE <= lengths[group] <= own * LIKE]
        chart = curve_chart(
            curves, x_name, x_unit, "held-out perplexity", "per token",
            whole_x=not timed, ends=ends, x_end=max(alike),
        )  # fmt: skip
        if chart:
            panels.append(("The way there" if len(groups) == 1 else group, chart))
    return panels


def _curve(label: str, number: int, seeds: Seeds, x: int) -> Curve | None:
    """Means over seeds at each evaluation that all seeds have."""
    curves: list[list[Any]] = [figures["curve"] for figures in seeds.values()]
    rows = [own for own in zip(*curves, strict=False) if all(row[PERPLEXITY] is not None for row in own)]
    if not rows:
        return None
    xs = tuple(fmean(row[x] for row in own) for own in rows)
    ys = [[row[PERPLEXITY] for row in own] for own in rows]
    return Curve(label, number, xs, tuple(map(fmean, ys)), tuple(map(min, ys)), tuple(map(max, ys)))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
