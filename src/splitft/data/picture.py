"""The partition as a picture: training rows of every client by class."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from splitft.common.files import writing
from splitft.common.text import short, short_count
from splitft.data.listing import OTHER, merge_classes, partition_title
from splitft.data.report import DataReport

MAX_CLASSES = 10  # more labels than colours that an eye tells apart: the smallest become "other"
WIDTH, FOOT, MARGIN, NOTES = 9.0, 0.6, 0.2, 1.75  # inches; NOTES is the room right of the longest bar


def partition_picture(report: DataReport, path: Path | str) -> None:
    """Draw stacked bars, one per client: training rows by class; writes a PNG.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    # Sizes, in inches: a line a client below the title and the legend
    names, counts = merge_classes(report, MAX_CLASSES)
    num_clients = len(report.clients)
    columns = _legend_columns(names)
    head = 0.72 + 0.2 * -(-len(names) // columns)  # inches for the title and the legend
    line = min(0.32, 40 / num_clients)  # hundreds of clients get small letters, not an endless picture
    height = head + FOOT + line * max(num_clients, 2)
    figure = Figure(figsize=(WIDTH, height), dpi=150, facecolor="white")
    labels = [short(client.name, 24) for client in report.clients]
    left = 0.35 + 0.085 * max(map(len, labels))
    box = (left / WIDTH, FOOT / height, (WIDTH - left - NOTES) / WIDTH, (height - head - FOOT) / height)
    axes = figure.add_axes(box)
    # Bars, each with its client at the left and its rows and tokens at the right
    axes.set_yticks(range(num_clients), labels, fontsize=9 * line / 0.32)
    bars = _draw_bars(axes, counts, _colours(names, ordered=bool(report.edges)))
    for place, (client, row) in enumerate(zip(report.clients, counts, strict=True)):
        axes.annotate(
            f"{sum(row):,} rows, {short_count(client.train_tokens)} tokens",
            (sum(row), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5 * line / 0.32,
            color="0.35",
        )
    figure.text(
        MARGIN / WIDTH, 1 - 0.18 / height, partition_title(report), fontsize=11, fontweight="bold", va="top"
    )
    # A legend fills columns first; in this order it reads along its lines.
    order = [k for column in range(columns) for k in range(column, len(names), columns)]
    figure.legend(
        [bars[k] for k in order],
        [_plain(short(names[k], 22)) for k in order],
        title=_plain(report.class_title),
        loc="upper left",
        bbox_to_anchor=(MARGIN / WIDTH, 1 - 0.42 / height),
        borderaxespad=0,
        borderpad=0,
        ncols=columns,
        fontsize=8.5,
        title_fontsize=8.5,
        alignment="left",
        frameon=False,
        handlelength=1.0,
        columnspacing=1.4,
    )
    with writing(path, "free the disk, or choose another output_dir"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels in scripts that the font lacks
        figure.savefig(path, format="png")


def _draw_bars(axes: Any, counts: list[list[int]], colours: list[Any]) -> list[Any]:
    """Bars stacked along the classes; returns one patch per class for the legend."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    places = range(len(counts))
    starts = [0] * len(counts)
    patches = []
    for kind, colour in enumerate(colours):
        widths = [row[kind] for row in counts]
        bars = axes.barh(
            places, widths, left=starts, height=0.74, color=colour, edgecolor="white", linewidth=0.4
        )
        patches.append(bars[0])
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_xlim(0, max(starts) or 1)
    axes.set_xlabel("training rows", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(axis="x", labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return patches


def _legend_columns(names: list[str]) -> int:
    """As many columns as fit beside each other, at most 5."""
    widest = min(max(map(len, names)), 22)
    return min(len(names), 5, int((WIDTH - 2 * MARGIN) / (0.45 + 0.08 * widest)))


def _colours(names: list[str], ordered: bool) -> list[Any]:
    from matplotlib import colormaps

    number = len(names)
    if ordered:  # short to long: light to dark, readable in grey too
        palette = colormaps["viridis_r"]
        return [palette(0.08 + 0.84 * k / max(number - 1, 1)) for k in range(number)]
    vivid = [colormaps["tab10"](k) for k in (0, 1, 2, 3, 4, 5, 6, 8, 9)]  # without its grey
    return [*vivid, "0.8"][:number] if names[-1:] != [OTHER] else [*vivid[: number - 1], "0.8"]


def _plain(text: str) -> str:
    """A label as it is: no formula between dollar signs, not hidden by a leading underscore."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
