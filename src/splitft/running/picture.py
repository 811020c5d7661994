"""The picture of a run: held-out perplexity by round and, where cuts moved, every client's cut below it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from splitft.common.figures import INK, displayed_figure, save_png, style, variant_colour
from splitft.common.levels import levels
from splitft.common.text import short
from splitft.history import ClientRecord, RoundRecord

LETTERS = 9  # points
LONGEST = 24  # letters of a client's name that are shown
MOST_IN_LEGEND = 12  # clients
APART = 0.07  # blocks between the lines of clients with the same cut


def perplexity_picture(records: Sequence[RoundRecord], path: Path) -> None:
    """Write a PNG with the perplexity of every evaluated round; nothing where no round was evaluated."""
    figure = perplexity_figure(records)
    if figure is not None:
        with style(LETTERS):
            save_png(figure, path)


@style(LETTERS)
def perplexity_figure(records: Sequence[RoundRecord]) -> Any:
    """Return a matplotlib Figure of the perplexity of every evaluated round; None where none was."""
    evaluated = [record for record in records if record.perplexity is not None]
    if not evaluated:
        return None
    from matplotlib.ticker import MaxNLocator

    # One panel, or two where cuts moved.
    cuts = {own for record in records for own in (record.cuts or {}).items()}
    moved = len(cuts) > len({name for name, _ in cuts})
    figure = displayed_figure(figsize=(8, 6.2 if moved else 4.5), layout="constrained")
    heights = [3, 2] if moved else [1]
    panels = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _draw_perplexity(panels[0], evaluated)
    if moved:
        _draw_cuts(panels[1], records)
        panels[1].yaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].set(xlabel="round (0: before training)")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _draw_perplexity(axes: Any, evaluated: Sequence[RoundRecord]) -> None:
    """Draw a thin line a client, a thick one with its first and last value for all together."""
    clients = evaluated[-1].clients
    for number, name in enumerate(clients):
        last = clients[name]
        shown = [(r.round, own_level(r, name, last)) for r in evaluated if name in r.clients]
        shown = [(x, y) for x, y in shown if y is not None]
        if shown:
            label = f" {short(name, LONGEST)}{_cut_text(evaluated[0].clients.get(name), clients[name])}"
            some = len(clients) <= MOST_IN_LEGEND
            axes.plot(*zip(*shown, strict=True), **_line(number), label=label if some else None)
    rounds = [record.round for record in evaluated]
    shown_levels = levels(list(map(vars, evaluated)))
    overall = [perplexity or 0.0 for perplexity, _ in shown_levels]
    widths = [width or 0.0 for _, width in shown_levels]
    label = "all held-out rows" + (",\nwith 95 % intervals\nof samples" if any(widths) else "")
    bars = widths if any(widths) else None
    axes.errorbar(
        rounds, overall, bars, color=INK, lw=2.5, elinewidth=1, capsize=3, marker="o", ms=4, label=label
    )
    for x, y, side, shift in ((rounds[0], overall[0], "right", -9), (rounds[-1], overall[-1], "left", 9)):
        axes.annotate(
            f"{y:.1f}" if y < 1000 else f"{y:,.0f}",
            (x, y),
            xytext=(shift, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            weight="bold",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        )
    axes.set(ylabel="held-out perplexity per token")
    axes.margins(x=0.16, y=0.08)


def own_level(record: RoundRecord, name: str, last: ClientRecord) -> float | None:
    """Return a client's perplexity; of a sample, on the level of its last one."""
    own = record.clients[name]
    if not record.sampled or own.perplexity is None or not last.perplexity or last.perplexity_change is None:
        return own.perplexity
    return last.perplexity * (1 + (own.perplexity_change or 0.0)) / (1 + last.perplexity_change)


def _draw_cuts(axes: Any, records: Sequence[RoundRecord]) -> None:
    """Draw every client's cut in each round, those of equal cuts side by side."""
    clients = list(records[-1].clients)
    for number, name in enumerate(clients):
        shown = [(r.round, r.cuts[name]) for r in records if r.cuts and name in r.cuts]
        aside = APART * (number - (len(clients) - 1) / 2) if len(clients) <= MOST_IN_LEGEND else 0.0
        rounds, cuts = [x for x, _ in shown], [cut + aside for _, cut in shown]
        axes.plot(
            rounds,
            cuts,
            **{**_line(number), "lw": 1.6, "alpha": 0.9},
            drawstyle="steps-mid",
            marker="o",
            ms=3,
        )
    axes.set(ylabel="blocks on the client (cut)")
    axes.margins(x=0.16, y=0.12)


def _line(number: int) -> dict[str, Any]:
    """Return the look of a client's line."""
    return {"color": variant_colour(number), "ls": ("-", "--")[number // 7 % 2], "lw": 1, "alpha": 0.7}


def _cut_text(first: ClientRecord | None, last: ClientRecord) -> str:
    if last.cut is None:
        return ""
    before = first.cut if first else last.cut
    return f", cut {last.cut}" if before == last.cut else f", cut {before} → {last.cut}"
