"""The plan of a job as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from splitft.common.figures import VARIANTS, save_png, style
from splitft.tools.plan.cuts import CutCost


@style(9)
def cuts_picture(costs: Sequence[CutCost], path: Path) -> None:
    """Write a PNG: memory and, with devices, the seconds of a round by cut."""
    from matplotlib.figure import Figure

    timed = all(cost.round_seconds is not None for cost in costs)
    figure = Figure(figsize=(9 if timed else 5, 4), layout="constrained")
    panels = figure.subplots(1, 2 if timed else 1, squeeze=False)[0]
    x = [cost.cut for cost in costs]
    panels[0].plot(x, [c.client_memory_bytes / 1e9 for c in costs], VARIANTS[0], marker=".", label="a client")
    panels[0].plot(x, [c.server_memory_bytes / 1e9 for c in costs], VARIANTS[1], marker=".", label="server")
    panels[0].set_ylabel("memory for training, GB (estimate)")
    panels[0].legend()
    if timed:
        panels[1].plot(x, [c.round_seconds for c in costs], VARIANTS[2], marker=".")
        panels[1].set(ylabel="virtual seconds of a round", ylim=(0, None))
    for axes in panels:
        axes.set_xlabel("cut, the same for all clients (blocks)")
        axes.xaxis.get_major_locator().set_params(integer=True)
    save_png(figure, path)
