"""Sections with cuts over time and with bars: time of a round, bytes by kind, data of each client."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from splitft.common.figures import OTHERS, PIECES, class_colours, ordered
from splitft.common.text import short_count
from splitft.devices.simulate import PARTS
from splitft.tools.report.charts.rows import Bar, bar_chart, cuts_chart, evenly
from splitft.tools.report.groups import Variant
from splitft.tools.report.sections import Panel, Section
from splitft.tools.report.series import (
    KINDS,
    bytes_by_kind,
    cuts_by_round,
    devices_of,
    mean_parts,
    waited_for,
)
from splitft.tools.report.units import byte_unit, time_unit

PART_NAMES = {"idle": "waiting for others", "queued": "waiting for the server", "server": "the server's work"}
KIND_NAMES = {"adapter": "adapters", "control": "headers and norms", "evaluation": "evaluation (all of it)"}
MOST_CLIENTS = 12  # clients in a panel of times


def cut_section(variants: Sequence[Variant]) -> Section | None:
    """Return the cuts over time, one panel a variant that has cuts; of its first seed."""
    chosen = [(number, v, cuts_by_round(v.runs[0])) for number, v in enumerate(variants)]
    every = {cut for _, _, cuts in chosen for steps in cuts.values() for _, cut in steps}
    if not every:
        return None
    known = sorted(every)
    shade = dict(zip(known, ordered(len(known)), strict=True))
    panels = []
    for number, variant, cuts in chosen:
        devices = devices_of(variant.runs[0])
        named = {_with_device(name, devices): steps for name, steps in cuts.items()}
        svg = cuts_chart(named, variant.runs[0].last_round, shade)
        if svg:
            panels.append(Panel(svg, f"{variant.label}, seed {variant.runs[0].seed}", number))
    note = (
        "How many blocks each client runs itself, embeddings not counted; the server runs the others. "
        "Colours: the cut, in blocks."
    )
    return Section("Cuts over time", panels, note, [(f"{cut}", shade[cut]) for cut in known])


def time_section(variants: Sequence[Variant]) -> Section | None:
    """Return where the virtual time of a round goes, one panel a variant; means over seeds and rounds."""
    panels = []
    rows = [(number, v, _time_bars(v)) for number, v in enumerate(variants)]
    longest = max((sum(bar.parts) for _, _, bars in rows for bar in bars), default=0.0)
    unit, size = time_unit(longest)
    colours = [*PIECES[:4], OTHERS]
    kinds = [PART_NAMES.get(part, part) for part in PARTS]
    for number, variant, bars in rows:
        scaled = [Bar(bar.label, tuple(p / size for p in bar.parts), bar.note) for bar in bars]
        svg = bar_chart(
            scaled, kinds, colours, f"virtual time of a round (mean, {unit})", "client (with device)",
            largest=longest / size,
        )  # fmt: skip
        if svg:
            panels.append(Panel(svg, variant.label, number))
    if not panels:
        return None
    note = (
        "Mean of the rounds that a client takes part in. A round ends when its last client is done; "
        "“last” counts the rounds, of all seeds, in which others waited for it. All panels have one scale."
    )
    if any(len(mean_parts(v.runs[0])) > MOST_CLIENTS for _, v, _ in rows):
        note += f" {MOST_CLIENTS} clients of each variant, from the slowest to the fastest at even distances."
    return Section("Who waits for whom", panels, note, list(zip(kinds, colours, strict=True)))


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
    colours = [PIECES[KINDS.index(kind)] for kind in present]
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


def data_section(variants: Sequence[Variant]) -> Section | None:
    """Return who holds which training rows, one panel for each different partition of the first seeds."""
    seen: dict[str, tuple[dict[str, Any], list[str], int]] = {}
    for variant in variants:
        partition = variant.runs[0].partition
        if partition.get("clients"):
            key = repr(
                [(c["name"], c["class_counts"]) for c in partition["clients"]] + [partition["classes"]]
            )
            seen.setdefault(key, (partition, [], variant.runs[0].seed))[1].append(variant.label)
    panels = []
    legends: list[list[tuple[str, str]]] = []
    for partition, labels, seed in seen.values():
        classes = list(map(str, partition["classes"]))
        colours = class_colours(len(classes), bool(partition.get("edges")))
        bars = [
            Bar(
                c["name"],
                tuple(c["class_counts"]),
                f"{c['train_rows']:,} rows, {short_count(c['train_tokens'])} tokens",
            )
            for c in partition["clients"]
        ]
        svg = bar_chart(bars, classes, colours, "training rows (number)", "client (rows and tokens)")
        if svg:
            which = "all variants" if len(labels) == len(variants) else "; ".join(labels)
            panels.append(Panel(svg, f"{which}, seed {seed}" if len(seen) > 1 or len(variants) > 1 else ""))
            legends.append(list(zip(classes, colours, strict=True)))
    if not panels:
        return None
    title = next(iter(seen.values()))[0].get("class_title", "class")
    note = f"Colours: {title}. Tokens after cutting rows at max_length."
    same = all(legend == legends[0] for legend in legends)
    if not same:  # e.g. length classes whose edges depend on the seed
        note += " The classes' bounds differ a little between the panels; those of the first are named."
    return Section("Who holds what data", panels, note, legends[0])


def _time_bars(variant: Variant) -> list[Bar]:
    """A bar a client, slowest first where there are too many for all."""
    per_run = [mean_parts(run) for run in variant.runs]
    last = [waited_for(run) for run in variant.runs]
    devices = devices_of(variant.runs[0])
    timed = sum(sum(counts.values()) for counts in last)
    bars = []
    for name in dict.fromkeys(name for parts in per_run for name in parts):
        rows = [parts[name] for parts in per_run if name in parts]
        count = sum(counts.get(name, 0) for counts in last)
        parts = tuple(fmean(column) for column in zip(*rows, strict=True))
        note = f"last in {count} of {timed}" if timed and count else ""
        bars.append(Bar(_with_device(name, devices), parts, note))
    if len(bars) <= MOST_CLIENTS:
        return bars
    busy = sorted(bars, key=lambda bar: bar.parts[PARTS.index("idle")] - sum(bar.parts))
    return list(evenly(busy, MOST_CLIENTS))


def _with_device(name: str, devices: dict[str, str]) -> str:
    return f"{name} · {devices[name]}" if name in devices else name
