"""Bytes by kind and direction."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from splitft.tools.report.charts.bars import Bar, bar_chart
from splitft.tools.report.groups import Variant
from splitft.tools.report.palette import piece_classes
from splitft.tools.report.sections import Panel, Section
from splitft.tools.report.series import KINDS, bytes_by_kind
from splitft.tools.report.units import byte_unit

KIND_NAMES = {"adapter": "adapters", "control": "headers and norms", "evaluation": "evaluation (all of it)"}


def traffic_section(variants: Sequence[Variant]) -> Section | None:
    """Return bytes by kind, up and down, one panel a variant; means over seeds."""
    totals = [[bytes_by_kind(run) for run in v.runs] for v in variants]
    present = [k for k in KINDS if any(way.get(k) for runs in totals for run in runs for way in run.values())]
    if not present:
        return None
    means = [
        {
            way: tuple(fmean(run[way].get(kind, 0) for run in runs) for kind in present)
            for way in ("up", "down")
        }
        for runs in totals
    ]
    largest = max(sum(parts) for ways in means for parts in ways.values())
    unit, size = byte_unit(largest)
    kinds = [KIND_NAMES.get(kind, kind) for kind in present]
    colours = [piece_classes(len(KINDS))[KINDS.index(kind)] for kind in present]
    panels = []
    silent = [v.label for v, ways in zip(variants, means, strict=True) if not any(map(sum, ways.values()))]
    for number, (variant, ways) in enumerate(zip(variants, means, strict=True)):
        if variant.label in silent:
            continue
        bars = [
            Bar(name, tuple(p / size for p in ways[way]), f"{sum(ways[way]) / size:,.1f} {unit}")
            for way, name in (("up", "to the server"), ("down", "to the clients"))
        ]
        svg = bar_chart(
            bars, kinds, colours, f"sent in the whole run ({unit})", "direction (all clients)",
            largest=largest / size,
        )  # fmt: skip
        if svg:
            panels.append(Panel(svg, variant.label, number))
    note = (
        "Mean over seeds. Activations are what a client's last block puts out, gradients what comes back for "
        "them, labels the texts' token ids; evaluation is counted apart and not in the table above."
    )
    if silent:
        note += f" Nothing is sent by {', '.join(silent)}."
    return Section("What was sent", panels, note, list(zip(kinds, colours, strict=True)))
