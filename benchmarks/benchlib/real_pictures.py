"""The picture of the benchmark of real seconds: perplexities over the wall's clock, and how busy each was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from splitft.common.figures import style, variant_colour


@style(9)
def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the figure: on the left a thin line a seed, a dot an evaluation, on the right a bar a party."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    curves, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    arms = {arm: list(runs.values()) for arm, runs in result["runs"].items() if runs}
    for number, (arm, runs) in enumerate(arms.items()):
        for place, run in enumerate(runs):
            rows = [row for row in run["rounds"] if row["perplexity"] is not None]
            curves.plot(
                [row["seconds"] for row in rows], [row["perplexity"] for row in rows], lw=0.9, marker="o",
                ms=2.5, color=variant_colour(number), label=None if place else arm,
            )  # fmt: skip
    curves.set_xlim(left=0)
    curves.set_xlabel("seconds on the wall, from the moment at which all clients are ready")
    curves.set_ylabel("held-out perplexity")
    curves.legend(loc="upper right")

    names = list(next(iter(arms.values()))[0]["parties"])
    height = 0.8 / len(arms)
    for number, runs in enumerate(arms.values()):
        busy = [100 * fmean(run["parties"][name]["at_quota"] for run in runs) for name in names]
        places = [place + (number - (len(arms) - 1) / 2) * height for place in range(len(names))]
        bars.barh(places, busy, height=height * 0.9, color=variant_colour(number))
    quotas = next(iter(arms.values()))[0]["parties"]
    bars.set_yticks(range(len(names)), [f"{name}\n{quotas[name]['quota_cores']:.3g} cores" for name in names])
    bars.invert_yaxis()
    bars.grid(axis="y", visible=False)
    bars.set_xlim(0, 100)
    bars.set_xlabel("of the time at its quota, %; the rest: waiting")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    figure.savefig(path.with_suffix(".png"), dpi=130)
