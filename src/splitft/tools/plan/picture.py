"""Plans as pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from splitft.tools.plan.cuts import CutCost
from splitft.tools.plan.scale import ScalePlan


def scale_picture(plan: ScalePlan, path: Path) -> None:
    """Write a PNG: when the clients of a round are done, by kind of device; and their cuts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    done, cuts = figure.subplots(1, 2, width_ratios=(3, 2))
    kinds = [kind for kind, _ in Counter(plan.devices).most_common()]
    names = np.asarray(plan.devices)
    edges = np.linspace(0, float(plan.finished.max()) * 1.0001, 41)
    parts = [plan.finished[names == kind] for kind in kinds]
    done.hist(parts, bins=edges, stacked=True, label=kinds, color=[f"C{i}" for i in range(len(kinds))])
    done.set_xlabel("virtual seconds until a client is done")
    done.set_ylabel("clients")
    done.legend(frameon=False, fontsize=9)
    values = np.asarray(plan.cuts)
    bins = np.arange(values.min() - 0.5, values.max() + 1.5)
    cuts.hist([values[names == kind] for kind in kinds], bins=bins, stacked=True)
    cuts.set_xlabel("cut (blocks on the client)")
    cuts.set_ylabel("clients")
    cuts.xaxis.get_major_locator().set_params(integer=True)
    for axes in (done, cuts):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"One round of {plan.present:,} clients: {plan.times.seconds:,.0f} s, server busy "
        f"{100 * plan.server_load:.0f} %",
        fontsize=11,
    )
    figure.savefig(path)


def cuts_picture(costs: Sequence[CutCost], path: Path) -> None:
    """Write a PNG: memory and, with devices, the seconds of a round by cut."""
    from matplotlib.figure import Figure

    timed = all(cost.round_seconds is not None for cost in costs)
    figure = Figure(figsize=(9 if timed else 5, 4), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2 if timed else 1, squeeze=False)[0]
    x = [cost.cut for cost in costs]
    panels[0].plot(x, [c.client_memory_bytes / 1e9 for c in costs], marker=".", label="a client")
    panels[0].plot(x, [c.server_memory_bytes / 1e9 for c in costs], marker=".", label="server")
    panels[0].set_ylabel("memory for training, GB (estimate)")
    panels[0].legend(frameon=False)
    if timed:
        panels[1].plot(x, [c.round_seconds for c in costs], marker=".", color="C2")
        panels[1].set_ylabel("virtual seconds of a round")
        panels[1].set_ylim(bottom=0)
    for axes in panels:
        axes.set_xlabel("cut, the same for all clients (blocks)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
