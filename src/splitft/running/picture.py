"""The picture of a run: held-out perplexity by round, of all clients together and of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from splitft.common.figures import INK, displayed_figure, save_png, style, variant_colour
from splitft.common.text import short
from splitft.history import RoundRecord

LETTERS = 9  # points
LONGEST = 24  # letters of a client's name that are shown


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

    clients = evaluated[-1].clients
    figure = displayed_figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    # A thin line a client, a thick one with its first and last value for all together
    for i, (name, client) in enumerate(clients.items()):
        shown = [(r.round, r.clients[name].perplexity) for r in evaluated if name in r.clients]
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
    overall = [record.perplexity or 0.0 for record in evaluated]
    axes.plot(rounds, overall, color=INK, lw=2.5, marker="o", ms=4, label="all held-out rows")
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
    return figure
