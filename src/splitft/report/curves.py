"""The picture of a run: held-out perplexity by round, of all clients together and of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from splitft.history import RoundRecord


def perplexity_picture(records: Sequence[RoundRecord], path: Path) -> None:
    """Write a PNG with the perplexity of every evaluated round; nothing where no round was evaluated."""
    evaluated = [record for record in records if record.perplexity is not None]
    if not evaluated:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rounds = [record.round for record in evaluated]
    for i, name in enumerate(evaluated[-1].clients):
        values = [r.clients[name].perplexity if name in r.clients else None for r in evaluated]
        shown = [(x, y) for x, y in zip(rounds, values, strict=True) if y is not None]
        if shown:
            label = (
                f"{name}, cut {evaluated[-1].clients[name].cut}" if len(evaluated[-1].clients) <= 12 else None
            )
            axes.plot(*zip(*shown, strict=True), color=f"C{i % 10}", lw=1, alpha=0.7, label=label)
    overall = [record.perplexity or 0.0 for record in evaluated]
    axes.plot(rounds, overall, color="black", lw=2.5, marker="o", ms=4, label="all held-out rows")
    for x, y, side, shift in ((rounds[0], overall[0], "right", -9), (rounds[-1], overall[-1], "left", 9)):
        axes.annotate(
            f"{y:.1f}",
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
    axes.margins(x=0.12, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    figure.savefig(path)
