"""The picture of a run: held-out perplexity by round, of all clients together and of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from splitft.common.figures import INK, save_png, style, variant_colour
from splitft.common.text import short
from splitft.history import ClientRecord, RoundRecord, levels

LONGEST = 24  # letters of a client's name that are shown


@style(9)
def perplexity_picture(records: Sequence[RoundRecord], path: Path) -> None:
    """Write a PNG with the perplexity of every evaluated round; nothing where no round was evaluated."""
    evaluated = [record for record in records if record.perplexity is not None]
    if not evaluated:
        return
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    clients = evaluated[-1].clients
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    # A thin line a client, a thick one with its first and last value for all together
    for i, (name, client) in enumerate(clients.items()):
        last = evaluated[-1].clients[name]
        shown = [(r.round, own_level(r, name, last)) for r in evaluated if name in r.clients]
        shown = [(x, y) for x, y in shown if y is not None]
        if shown:
            label = f" {short(name, LONGEST)}, cut {client.cut}" if len(clients) <= 12 else None
            axes.plot(
                *zip(*shown, strict=True),
                color=variant_colour(i),
                ls=("-", "--")[i // 7 % 2],
                lw=1,
                alpha=0.7,
                label=label,
            )
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
    axes.set(xlabel="round (0: before training)", ylabel="held-out perplexity per token")
    axes.margins(x=0.16, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right center")
    save_png(figure, path)


def own_level(record: RoundRecord, name: str, last: ClientRecord) -> float | None:
    """Return a client's perplexity; of a sample, on the level of its last one."""
    own = record.clients[name]
    if not record.sampled or own.perplexity is None or not last.perplexity or last.perplexity_change is None:
        return own.perplexity
    return last.perplexity * (1 + (own.perplexity_change or 0.0)) / (1 + last.perplexity_change)
