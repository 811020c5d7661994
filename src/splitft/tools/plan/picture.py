"""The plan of a job as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from splitft.tools.plan.cuts import CutCost


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
