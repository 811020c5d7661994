"""Sections with cuts over time and with bars: time of a round, bytes by kind, data of each client."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from splitft.common.figures import OTHERS, PIECES, class_colours, ordered
from splitft.common.text import short_count
from splitft.devices.simulate import PARTS
from splitft.tools.report.charts.rows import Bar, bar_chart, cuts_chart, evenly
from splitft.tools.report.groups import Variant
from splitft.tools.report.sections import Panel, Section, make_section
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
KIND_NAMES = {
    "adapter": "adapters",
    "control": "headers and norms",
    "evaluation": "evaluation",
    "held_out": "ids of held-out rows",
}
MOST_CLIENTS = 12  # clients in a panel of times


def cut_section(variants: Sequence[Variant]) -> Section | None:
    """Return the cuts over time, one panel a variant that has cuts; of its first seed."""
    firsts = [variant.runs[0] for variant in variants]
    chosen = [cuts_by_round(run) for run in firsts]
    known = sorted({cut for cuts in chosen for steps in cuts.values() for _, cut in steps})
    shade = dict(zip(known, ordered(len(known)), strict=True))
    panels = []
    for number, (variant, run, cuts) in enumerate(zip(variants, firsts, chosen, strict=True)):
        devices = devices_of(run)
        chart = cuts_chart({_with_device(name, devices): cuts[name] for name in cuts}, run.last_round, shade)
        panels.append(Panel(chart, f"{variant.label}, seed {run.seed}", number))
    note = (
        "How many blocks each client runs itself, embeddings not counted; the server runs the others. "
        "Colours: the cut, in blocks."
    )
    return make_section("Cuts over time", panels, note, [(f"{cut}", shade[cut]) for cut in known])


def time_section(variants: Sequence[Variant]) -> Section | None:
    """Return where the virtual time of a round goes, one panel a variant; means over seeds and rounds."""
    bars = [_time_bars(variant) for variant in variants]
    longest = max((sum(bar.parts) for own in bars for bar in own), default=0.0)
    unit, size = time_unit(longest)
    kinds = (PART_NAMES.get(part, part) for part in PARTS)
    legend = list(zip(kinds, [*PIECES[:4], OTHERS], strict=True))
    x_label = f"virtual time of a round (mean, {unit})"
    panels = [
        Panel(bar_chart(own, legend, x_label, "client (with device)", longest, size), variant.label, number)
        for number, (variant, own) in enumerate(zip(variants, bars, strict=True))
    ]
    note = (
        "Mean of the rounds that a client takes part in. A round ends when its last client is done; "
        "“last” counts the rounds, of all seeds, in which others waited for it. All panels have one scale."
    )
    if any(len(mean_parts(v.runs[0])) > MOST_CLIENTS for v in variants):
        note += f" {MOST_CLIENTS} clients of each variant, from the slowest to the fastest at even distances."
    return make_section("Who waits for whom", panels, note, legend)


def traffic_section(variants: Sequence[Variant]) -> Section | None:
    """Return bytes by kind, up and down, one panel a variant; means over seeds."""
    totals = [[bytes_by_kind(run) for run in v.runs] for v in variants]
    present = [k for k in KINDS if any(way.get(k) for runs in totals for run in runs for way in run.values())]
    means = [
        [[fmean(run[way][kind] for run in runs) for kind in present] for way in ("up", "down")]
        for runs in totals
    ]
    largest = max(sum(parts) for ways in means for parts in ways)
    unit, size = byte_unit(largest)
    legend = [(KIND_NAMES.get(kind, kind), PIECES[KINDS.index(kind) % len(PIECES)]) for kind in present]
    panels, silent = [], []
    for number, (variant, ways) in enumerate(zip(variants, means, strict=True)):
        if not any(map(sum, ways)):
            silent.append(variant.label)
            continue
        bars = [
            Bar(name, parts, f"{sum(parts) / size:,.1f} {unit}")
            for name, parts in zip(("to the server", "to the clients"), ways, strict=True)
        ]
        x_label = f"sent in the whole run ({unit})"
        chart = bar_chart(bars, legend, x_label, "direction (all clients)", largest, size)
        panels.append(Panel(chart, variant.label, number))
    note = (
        "Mean over seeds. Activations are what a client's last block puts out, gradients what comes back for "
        "them, labels the texts' token ids; evaluation, and the ids of "
        "held-out rows that the server evaluates by itself, are in the table “All that was sent” alone."
    )
    if silent:
        note += f" Nothing is sent by {', '.join(silent)}."
    return make_section("What was sent", panels, note, legend)


def data_section(variants: Sequence[Variant]) -> Section | None:
    """Return who holds which training rows, one panel for each different partition of the first seeds."""
    same: dict[str, list[Variant]] = {}
    for variant in variants:
        partition = variant.runs[0].partition
        if partition.get("clients"):
            held = [(client["name"], client["class_counts"]) for client in partition["clients"]]
            same.setdefault(repr((held, partition["classes"])), []).append(variant)
    panels, legends = [], []
    for group in same.values():
        run = group[0].runs[0]
        classes = list(map(str, run.partition["classes"]))
        colours = class_colours(len(classes), bool(run.partition.get("edges")))
        legends.append(list(zip(classes, colours, strict=True)))
        bars = []
        for client in run.partition["clients"]:
            note = f"{client['train_rows']:,} rows, {short_count(client['train_tokens'])} tokens"
            bars.append(Bar(client["name"], client["class_counts"], note))
        which = "all variants" if len(group) == len(variants) else "; ".join(v.label for v in group)
        caption = f"{which}, seed {run.seed}" if len(variants) > 1 else ""
        chart = bar_chart(bars, legends[-1], "training rows (number)", "client (rows and tokens)")
        panels.append(Panel(chart, caption))
    if not panels:
        return None
    title = next(iter(same.values()))[0].runs[0].partition.get("class_title", "class")
    note = f"Colours: {title}. Tokens after cutting rows at max_length."
    if any(legend != legends[0] for legend in legends):  # e.g. length classes whose edges depend on the seed
        note += " The classes' bounds differ a little between the panels; those of the first are named."
    return make_section("Who holds what data", panels, note, legends[0])


def _time_bars(variant: Variant) -> list[Bar]:
    """A bar a client, slowest first where there are too many for all."""
    per_run = [mean_parts(run) for run in variant.runs]
    last = [waited_for(run) for run in variant.runs]
    devices = devices_of(variant.runs[0])
    timed = sum(sum(counts.values()) for counts in last)
    bars = []
    for name in dict.fromkeys(name for parts in per_run for name in parts):
        rows = [parts[name] for parts in per_run if name in parts]
        count = sum(counts[name] for counts in last)
        parts = tuple(fmean(column) for column in zip(*rows, strict=True))
        note = f"last in {count} of {timed}" if timed and count else ""
        bars.append(Bar(_with_device(name, devices), parts, note))
    if len(bars) <= MOST_CLIENTS:
        return bars
    busy = sorted(bars, key=lambda bar: bar.parts[PARTS.index("idle")] - sum(bar.parts))
    return list(evenly(busy, MOST_CLIENTS))


def _with_device(name: str, devices: dict[str, str]) -> str:
    return f"{name} · {devices[name]}" if name in devices else name
