"""The partition as a picture: training rows of every client by class."""

from __future__ import annotations

from pathlib import Path

from splitft.common.figures import OTHERS, SOFT, class_colours, draw_bar, save_png, style
from splitft.common.text import short, short_count
from splitft.data.listing import OTHER, merge_classes, partition_title
from splitft.data.report import DataReport

MAX_CLASSES = 10  # more labels than colours that an eye tells apart: the smallest become "other"
WIDTH = 9.0  # inches


@style(9)
def partition_picture(report: DataReport, path: Path | str) -> None:
    """Draw stacked bars, one per client: training rows by class; write a PNG, or raise OutputError."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    # A line a client below the legend; hundreds of clients get small letters, not an endless picture
    names, counts = merge_classes(report, MAX_CLASSES)
    num_clients = len(report.clients)
    shown = [short(name, 22) for name in names]
    columns = min(len(names), 5, int(WIDTH / (0.6 + 0.09 * max(map(len, shown)))))
    line = min(0.32, 40 / num_clients)
    height = 1.2 + 0.2 * -(-len(names) // columns) + line * max(num_clients, 2)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    # Bars, each with its client at the left and its rows and tokens at the right
    labels = [short(client.name, 24) for client in report.clients]
    axes.set_yticks(range(num_clients), labels, fontsize=9 * line / 0.32)
    colours = class_colours(len(names), bool(report.edges))
    if names[-1] == OTHER:
        colours[-1] = OTHERS
    for place, (client, row) in enumerate(zip(report.clients, counts, strict=True)):
        draw_bar(axes, place, 0.74, row, colours)
        axes.annotate(
            f"{sum(row):,} rows, {short_count(client.train_tokens)} tokens",
            (sum(row), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5 * line / 0.32,
            color=SOFT,
        )
    axes.set(xlim=(0, max(map(sum, counts)) or 1), ylim=(num_clients - 0.5, -0.5), xlabel="training rows")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(visible=False, axis="y")
    # A legend fills columns first; in this order it reads along its lines. It hides a leading underscore.
    order = [k for column in range(columns) for k in range(column, len(names), columns)]
    figure.legend(
        handles=[Patch(color=colours[k], label=f" {shown[k]}") for k in order],
        title=f"{partition_title(report)}\n{report.class_title}",
        loc="outside upper left",
        ncols=columns,
        alignment="left",
    )
    save_png(figure, path)
