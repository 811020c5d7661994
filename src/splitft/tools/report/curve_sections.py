"""Curves: perplexity and accuracy against rounds, bytes and simulated time; the last value of every seed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from splitft.tools.report.charts.curves import Curve, coincide, curve_chart
from splitft.tools.report.charts.dots import strip_chart
from splitft.tools.report.charts.rows import evenly
from splitft.tools.report.charts.svg import Chart
from splitft.tools.report.compared import equal_variants
from splitft.tools.report.groups import Variant
from splitft.tools.report.sections import Panel, Section, make_section
from splitft.tools.report.series import points
from splitft.tools.report.units import byte_unit, figure, time_unit
from splitft.tools.report.verdict import listed

MOST_POINTS = 240  # of a curve
BEFORE = "0: before training"
PERPLEXITY = ("held-out perplexity", "per token")
SEEDS = "Line: mean over seeds; band: lowest to highest seed."


def curve_sections(variants: Sequence[Variant]) -> list[Section | None]:
    """Return perplexity against rounds, bytes and virtual time, accuracy, and the last value of all seeds."""
    by_round = _curves(variants, "round")
    later = [curve.since(curve.x[-1] / 2) for curve in by_round]
    accuracy = _curves(variants, "round", "accuracy", y_factor=100.0)
    covered = _covered(variants, by_round)
    right = ("next tokens predicted right", "%")
    return [
        _section(
            "Perplexity by round",
            variants,
            curve_chart(by_round, "round", BEFORE, *PERPLEXITY, whole_x=True),
            f"Lower is better. {SEEDS}{covered}",
        ),
        _section(
            "Perplexity by round, second half",
            variants,
            curve_chart(later, "round", "number", *PERPLEXITY, whole_x=True),
            "The same, from half way on: what the first rounds hide.",
        ),
        _by_bytes(variants),
        _by_time(variants),
        _section(
            "Accuracy by round",
            variants,
            curve_chart(accuracy, "round", BEFORE, *right, whole_x=True, share=True),
            f"Held-out rows; higher is better. {SEEDS}{covered}",
        ),
        _at_the_end(variants),
    ]


def _covered(variants: Sequence[Variant], curves: Sequence[Curve]) -> str:
    """Say which lines are one, and whether others lie on each other."""
    equal = equal_variants(variants)
    text = "".join(f" {listed(names)} are one line: they are the same to the last digit." for names in equal)
    together = [{*names} for names in equal]
    pairs = [(one, other) for one, other in combinations(curves, 2) if coincide(one, other)]
    close = [pair for pair in pairs if not any({c.label for c in pair} <= names for names in together)]
    return text + (" Where lines lie on each other, those below show through the gaps." if close else "")


def _by_bytes(variants: Sequence[Variant]) -> Section | None:
    curves = _curves(variants, "bytes_moved")
    unit, size = byte_unit(max((curve.x[-1] for curve in curves), default=0.0))
    moved = [curve.in_unit(size) for curve in curves if curve.x[-1]]
    still = [curve.label for curve in curves if not curve.x[-1]]
    nothing = f" Not drawn, since nothing is sent: {', '.join(still)}." if still else ""
    note = f"Up and down, all clients together: training and adapters, without evaluation.{nothing}"
    return _section(
        "Perplexity by data sent",
        variants,
        curve_chart(moved, "sent since the start", unit, *PERPLEXITY),
        note,
    )


def _by_time(variants: Sequence[Variant]) -> Section | None:
    """Leave out pooled data that a fast server trains in no time: all other curves would shrink beside it."""
    curves = _curves(variants, "virtual_seconds")
    longest = max((curve.x[-1] for curve in curves), default=0.0)
    unit, size = time_unit(longest)
    pooled = [v.label for v in variants if v.job["method"] == "centralized"]
    instant = [c for c in curves if c.label in pooled and c.x[-1] < longest / 50]
    drawn = [curve.in_unit(size) for curve in curves if curve not in instant]
    note = "What the rounds would take on the devices named below; simulated, not measured."
    if instant:
        done = ", ".join(f"{c.label} (over after {figure(c.x[-1] / size, 2)} {unit})" for c in instant)
        note += f" Not drawn: {done}."
    return _section(
        "Perplexity by simulated time", variants, curve_chart(drawn, "virtual time", unit, *PERPLEXITY), note
    )


def _at_the_end(variants: Sequence[Variant]) -> Section | None:
    ends = []
    for number, variant in enumerate(variants):
        last = [points(run)[-1].perplexity for run in variant.runs if points(run)]
        ends.append((variant.label, number, [value for value in last if value is not None]))
    if sum(len(own) for _, _, own in ends) < 2:
        return None
    chart = strip_chart(ends, *PERPLEXITY, "variant (name, mean ± sd)")
    note = (
        "A dot is a seed, the long tick the mean, the line one standard deviation to both sides. "
        "The axis does not start at 0."
    )
    return make_section("Perplexity at the end", [Panel(chart)], note)


def _section(title: str, variants: Sequence[Variant], chart: Chart | None, note: str) -> Section | None:
    lines = [(variant.label, number) for number, variant in enumerate(variants)]
    return make_section(title, [Panel(chart)], note, lines=lines if len(lines) > 1 else ())


def _curves(variants: Sequence[Variant], x: str, y: str = "perplexity", y_factor: float = 1.0) -> list[Curve]:
    """Means over the seeds of two fields of `Point`, at the rounds that all seeds of a variant have."""
    curves = []
    for number, variant in enumerate(variants):
        runs = [{p.round: (getattr(p, x), getattr(p, y)) for p in points(run)} for run in variant.runs]
        xs: list[float] = []
        ys: list[list[float]] = []
        for round_ in evenly(sorted(set.intersection(*map(set, runs))), MOST_POINTS):
            pairs = [run[round_] for run in runs]
            if not any(None in pair for pair in pairs):
                xs.append(fmean(at for at, _ in pairs))
                ys.append([y_factor * value for _, value in pairs])
        if xs:
            means, lows, highs = tuple(map(fmean, ys)), tuple(map(min, ys)), tuple(map(max, ys))
            curves.append(Curve(variant.label, number, tuple(xs), means, lows, highs))
    return curves
