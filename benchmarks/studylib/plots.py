"""One picture a sweep: where every seed ended, and the way there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from studylib.results import Group, Seeds, by_seed, relative_differences

ROUND, SECONDS, PERPLEXITY = 0, 2, 3  # columns of a curve


def plot_sweep(groups: Mapping[str, Group], title: str, path: Path) -> bool:
    """Write a PNG, a column for each group: above the final perplexities, below the curves.

    Final perplexities are differences to the group's first arm, seed by seed, as the claims are judged. The
    curves go over virtual time where there are devices, else over rounds; a line is one seed. Returns whether
    there was anything to draw.
    """
    shown = {
        name: arms for name, arms in groups.items() if any(by_seed(a, "perplexity") for a in arms.values())
    }
    if not shown:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 3.7 * len(shown)), 6.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(shown), squeeze=False)
    for column, (name, arms) in enumerate(shown.items()):
        final, curves = axes[0][column], axes[1][column]
        _finals(final, arms)
        _curves(curves, arms)
        if len(shown) > 1:
            final.set_title(name, fontsize=10)
        for axis in (final, curves):
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        if not column:
            final.set_ylabel(f"final perplexity\nagainst {next(iter(arms))}, %")
            curves.set_ylabel("held-out perplexity per token")
    handles, labels = axes[1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    figure.suptitle(title)
    figure.savefig(path)
    return True


def _finals(axis: Any, arms: Group) -> None:
    """A dot is one seed; the broad mark is their mean."""
    baseline = next(iter(arms.values()))
    for place, arm in enumerate(arms.values()):
        values = [100 * value for value in relative_differences(arm, baseline, "perplexity")]
        if values:
            axis.plot([place], [fmean(values)], marker="_", ms=22, mew=3, color=f"C{place}", alpha=0.6)
            axis.plot([place] * len(values), values, color="0.25", lw=0, marker="o", ms=3.5)
    axis.axhline(0, color="0.5", lw=0.8, zorder=0)
    axis.set_xticks(range(len(arms)), list(arms), rotation=20, ha="right", fontsize=8)
    axis.margins(x=0.15, y=0.15)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, -0.05), max(high, 0.05))  # rounding shall not look like an effect


def _curves(axis: Any, arms: Group) -> None:
    timed = all(row[SECONDS] is not None for arm in arms.values() for f in arm.values() for row in f["curve"])
    x = SECONDS if timed else ROUND
    for number, (label, arm) in enumerate(arms.items()):
        for place, curve in enumerate(_rows(arm)):
            known = [(row[x], row[PERPLEXITY]) for row in curve if row[PERPLEXITY] is not None]
            if known:
                xs, ys = zip(*known, strict=True)
                axis.plot(xs, ys, color=f"C{number}", lw=1.2, alpha=0.8, label=None if place else label)
    axis.set_xlabel("virtual seconds of training" if timed else "round")


def _rows(arm: Seeds) -> list[Any]:
    return [figures["curve"] for figures in arm.values()]
