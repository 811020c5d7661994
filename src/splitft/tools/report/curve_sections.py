"""Curves: perplexity and accuracy against rounds, bytes and simulated time, and where every seed ended."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from markupsafe import Markup

from splitft.tools.report.charts.bars import evenly
from splitft.tools.report.charts.curves import Curve, coincide, curve_chart
from splitft.tools.report.charts.strips import strip_chart
from splitft.tools.report.groups import Variant
from splitft.tools.report.sections import Panel, Section
from splitft.tools.report.series import points
from splitft.tools.report.units import byte_unit, figure, time_unit

MOST_POINTS = 240  # of a curve
BEFORE = "0: before training"
PERPLEXITY = ("held-out perplexity", "per token")
SEEDS = "Line: mean over seeds; band: lowest to highest seed."


def curve_sections(variants: Sequence[Variant]) -> list[Section]:
    """Return perplexity against rounds, bytes and virtual time, accuracy, and the ends of all seeds."""
    by_round = _curves(variants, "round", "perplexity")
    made = [
        _by_round(by_round),
        _second_half(by_round),
        _by_bytes(variants),
        _by_time(variants),
        _accuracy_by_round(variants),
        _at_the_end(variants),
    ]
    return [section for section in made if section]


def _by_round(curves: Sequence[Curve]) -> Section | None:
    svg = curve_chart(curves, "round", BEFORE, *PERPLEXITY, whole_x=True)
    hidden = any(coincide(one, other) for one, other in combinations(curves, 2))
    rims = " Where lines lie on each other, those below show as rims." if hidden else ""
    return _section("Perplexity by round", svg, f"Lower is better. {SEEDS}{rims}")


def _second_half(curves: Sequence[Curve]) -> Section | None:
    later = [curve.from_half() for curve in curves]
    svg = curve_chart(later, "round", "number", *PERPLEXITY, whole_x=True)
    return _section(
        "Perplexity by round, second half", svg, "The same, from half way on: what the first rounds hide."
    )


def _by_bytes(variants: Sequence[Variant]) -> Section | None:
    curves = _curves(variants, "bytes_moved", "perplexity")
    unit, size = byte_unit(max((curve.x[-1] for curve in curves if curve.x), default=0.0))
    still = [curve.label for curve in curves if curve.x and curve.x[-1] == 0]
    moved = [c for c in _curves(variants, "bytes_moved", "perplexity", size) if c.label not in still]
    nothing = f" Not drawn, since nothing is sent: {', '.join(still)}." if still else ""
    note = f"Up and down, all clients together: training and adapters, without evaluation.{nothing}"
    return _section(
        "Perplexity by data sent", curve_chart(moved, "sent since the start", unit, *PERPLEXITY), note
    )


def _by_time(variants: Sequence[Variant]) -> Section | None:
    """Pooled data on a fast server may take so little time that all others would shrink beside it."""
    curves = _curves(variants, "virtual_seconds", "perplexity")
    longest = max((curve.x[-1] for curve in curves if curve.x), default=0.0)
    unit, size = time_unit(longest)
    pooled = [v.label for v in variants if v.job["method"] == "centralized"]
    instant = [c for c in curves if c.label in pooled and c.x and c.x[-1] < longest / 50]
    left_out = [curve.label for curve in instant]
    drawn = [c for c in _curves(variants, "virtual_seconds", "perplexity", size) if c.label not in left_out]
    note = "What the rounds would take on the devices named below; simulated, not measured."
    if instant:
        done = ", ".join(f"{c.label} (over after {figure(c.x[-1] / size, 2)} {unit})" for c in instant)
        note += f" Not drawn: {done}."
    return _section(
        "Perplexity by simulated time", curve_chart(drawn, "virtual time", unit, *PERPLEXITY), note
    )


def _accuracy_by_round(variants: Sequence[Variant]) -> Section | None:
    curves = _curves(variants, "round", "percent_right")
    svg = curve_chart(curves, "round", BEFORE, "next tokens predicted right", "%", whole_x=True, share=True)
    return _section("Accuracy by round", svg, f"Held-out rows; higher is better. {SEEDS}")


def _at_the_end(variants: Sequence[Variant]) -> Section | None:
    ends = [(variant.label, number, _ends(variant)) for number, variant in enumerate(variants)]
    if sum(len(own) for _, _, own in ends) < 2:
        return None
    svg = strip_chart(ends, "held-out perplexity", "per token", "variant (name, mean ± sd)")
    note = (
        "A dot is a seed, the long tick the mean, the line one standard deviation to both sides. "
        "The axis does not start at 0."
    )
    return _section("Perplexity at the end", svg, note)


def _section(title: str, svg: Markup | None, note: str) -> Section | None:
    return Section(title, [Panel(svg)], note) if svg else None


def _curves(variants: Sequence[Variant], x_of: str, y_of: str, unit: float = 1.0) -> list[Curve]:
    """Return means at those rounds that all seeds of a variant have.

    x_of, y_of: Attributes of a `Point`.
    unit: x is given in multiples of it.
    """
    curves = []
    for number, variant in enumerate(variants):
        runs = [{p.round: (getattr(p, x_of), getattr(p, y_of)) for p in points(run)} for run in variant.runs]
        xs, ys = [], []
        for round_ in evenly(sorted(set.intersection(*(set(run) for run in runs))), MOST_POINTS):
            pairs = [run[round_] for run in runs]
            if all(x is not None and y is not None for x, y in pairs):
                xs.append(fmean(x / unit for x, _ in pairs))
                ys.append([y for _, y in pairs])
        curves.append(
            Curve(
                variant.label, number, tuple(xs), tuple(map(fmean, ys)), tuple(map(min, ys)),
                tuple(map(max, ys)),
            )
        )  # fmt: skip
    return curves


def _ends(variant: Variant) -> list[float]:
    last = [points(run)[-1].perplexity for run in variant.runs if points(run)]
    return [value for value in last if value is not None]
