"""Pictures of benchmarks, drawn by the report's own charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from splitft.common.figures import style
from splitft.tools.report.charts.compose import Composed
from splitft.tools.report.charts.curves import Curve, curve_chart, height_of
from splitft.tools.report.charts.dots import interval_chart, reach
from splitft.tools.report.charts.svg import FONT, Chart
from splitft.tools.report.paired import paired

Lines = Mapping[str, Sequence[float]]  # a value for each place on the x axis


def draw_scale(sizes: Sequence[int], panels: Mapping[tuple[str, str], Lines], path: Path, title: str) -> None:
    """Write an SVG: a panel of lines over numbers of clients for each (name, unit); all start at 0."""
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    charts: list[tuple[str, Chart]] = []
    with style(FONT):
        for (name, unit), lines in panels.items():
            curves = [_curve(label, names.index(label), sizes, ys) for label, ys in lines.items()]
            ends = (0.0, height_of(curves)[1])
            chart = curve_chart(curves, "clients", "number", name, unit, ends=ends, share=True)
            charts += [("", chart)] if chart else []
        lines_of = [(name, number) for number, name in enumerate(names)]
        text = Composed([charts], lines=lines_of).svg(title)
    _write(path, text)


def draw_quality(
    differences: Mapping[str, tuple[float, Sequence[float]]], path: Path, most: float, title: str
) -> None:
    """Write an SVG of {setting: (share of the bytes, a relative difference of perplexity a seed)}.

    most: settings whose mean is further from 0 are named in words, since beside them no other would be seen.
    """
    rows, beyond = [], []
    for number, (setting, (share, values)) in enumerate(
        sorted(differences.items(), key=lambda own: own[1][0])
    ):
        found = paired([100 * value for value in values])
        label = f"{setting}: {100 * share:.0f} % of the bytes"
        if found is None:
            continue
        if abs(found.mean) > 100 * most:
            beyond.append(f"Beyond the axis: {label}, {found.mean:+.0f} %.")
        else:
            rows.append((label, number, found))
    with style(FONT):
        ends = reach([found for _, _, found in rows])
        chart = interval_chart(rows, "perplexity against no codec", "%", "codec (mean)", ends, brief=True)
        assert chart is not None
        text = Composed([[("", chart)]], notes=beyond).svg(title)
    _write(path, text)


def _curve(label: str, number: int, xs: Sequence[int], ys: Sequence[float]) -> Curve:
    values = tuple(map(float, ys))
    return Curve(label, number, tuple(map(float, xs)), values, values, values)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
