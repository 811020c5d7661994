"""The picture of a run: held-out perplexity by round, of all clients together and of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from splitft.common.text import short
from splitft.history import RoundRecord

WIDTH, HEIGHT = 8.0, 4.5  # inches
LEFT, FOOT, MARGIN = 0.95, 0.6, 0.2  # inches: for the numbers of an axis and its name; free
NAME, LETTER = 0.55, 0.07  # inches of an entry of the legend: its line, each letter
LONGEST = 24  # letters of a client's name that are shown
ALL = "all held-out rows"


def perplexity_picture(records: Sequence[RoundRecord], path: Path) -> None:
    """Write a PNG with the perplexity of every evaluated round; nothing where no round was evaluated."""
    evaluated = [record for record in records if record.perplexity is not None]
    if not evaluated:
        return
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Leave room at the right for the longest entry of the legend
    clients = evaluated[-1].clients
    labels = {name: f"{short(name, LONGEST)}, cut {client.cut}" for name, client in clients.items()}
    named = len(clients) <= 12
    letters = max(map(len, [ALL, *(labels.values() if named else ())]))
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=120)  # places of its own: a layout engine draws it all twice
    inner = (WIDTH - LEFT - NAME - LETTER * letters - MARGIN, HEIGHT - FOOT - MARGIN)
    axes = figure.add_axes((LEFT / WIDTH, FOOT / HEIGHT, inner[0] / WIDTH, inner[1] / HEIGHT))
    # A thin line a client, a thick one with its first and last value for all together
    rounds = [record.round for record in evaluated]
    for i, name in enumerate(clients):
        values = [r.clients[name].perplexity if name in r.clients else None for r in evaluated]
        shown = [(x, y) for x, y in zip(rounds, values, strict=True) if y is not None]
        if shown:
            label = labels[name] if named else None
            axes.plot(*zip(*shown, strict=True), color=f"C{i % 10}", lw=1, alpha=0.7, label=label)
    overall = [record.perplexity or 0.0 for record in evaluated]
    axes.plot(rounds, overall, color="black", lw=2.5, marker="o", ms=4, label=ALL)
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
    axes.set_xlabel("round (0: before training)")
    axes.set_ylabel("held-out perplexity per token")
    axes.margins(x=0.16, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    figure.savefig(path)
