"""The verdict as a table: for the page, for the terminal, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from splitft.tools.report.units import byte_unit, figure, mean_and_sd, places, time_unit
from splitft.tools.report.verdict import MEASURES

if TYPE_CHECKING:
    from rich.table import Table


QUALITY, COST, TIME = "Reached", "Cost", "Simulated time"


@dataclass(frozen=True)
class Cell:
    """One cell; best: the best mean of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Column:
    """One column, a cell a variant; part: the table of the terminal that it stands in."""

    part: str
    heading: str
    unit: str
    cells: list[Cell]


def verdict_columns(data: dict[str, Any]) -> list[Column]:
    """Return the columns of `report_data` beside the label; those that no variant fills are left out."""
    rows = data["variants"]
    target = data["target_perplexity"]
    seconds, second = time_unit(_largest(rows, "virtual_seconds"))
    size_name, size = byte_unit(max(_largest(rows, "bytes_up"), _largest(rows, "bytes_down")))
    millions = _largest(rows, "trained_parameters") >= 1e6
    reach = "" if target is None else f"to perplexity {figure(target)}"
    columns = [
        Column(QUALITY, "seeds", "number", [Cell(str(len(row["seeds"]))) for row in rows]),
        _column(rows, "perplexity", QUALITY, "perplexity", "per token", best=min),
        _column(rows, "accuracy", QUALITY, "accuracy", "% of next tokens", 0.01, 3, best=max),
        _column(rows, "paper_accuracy", QUALITY, "paper accuracy", "%", 0.01, 3),
        _column(rows, "bytes_up", COST, "sent up", size_name, size),
        _column(rows, "bytes_down", COST, "sent down", size_name, size),
        _column(rows, "bytes_to_target", COST, f"sent {reach}", size_name, size),
        _column(rows, "virtual_seconds", TIME, "virtual time", seconds, second),
        _column(rows, "virtual_seconds_to_target", TIME, f"virtual time {reach}", seconds, second, best=min),
        _column(
            rows, "trained_parameters", COST, "trained parameters",
            "million" if millions else "number", 1e6 if millions else 1.0, 4 if millions else 0,
        ),
    ]  # fmt: skip
    return [column for column in columns if any(cell.text != "–" for cell in column.cells)]


def verdict_tables(data: dict[str, Any]) -> list[Table]:
    """Return the table for the terminal, in parts that 80 columns hold."""
    columns = verdict_columns(data)
    parts = {
        title: [c for c in columns if c.part == title] for title in dict.fromkeys(c.part for c in columns)
    }
    return [_terminal_table(data, f"{title}: means over seeds ± sd", own) for title, own in parts.items()]


def _terminal_table(data: dict[str, Any], title: str, columns: Sequence[Column]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left")
    table.add_column("variant")
    for column in columns:
        table.add_column(Text(f"{column.heading}\n{column.unit}"), justify="right")
    for number, row in enumerate(data["variants"]):
        cells = (column.cells[number] for column in columns)
        table.add_row(
            Text(row["label"] + remark(row)), *(Text(c.text, style="bold" if c.best else "") for c in cells)
        )
    return table


def verdict_csv(data: dict[str, Any]) -> str:
    """Return the table as CSV, a line a variant: means and standard deviations; bytes, seconds, shares."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["variant", "seeds", "rounds", *(f"{name}_{what}" for name in MEASURES for what in ("mean", "sd"))]
    )
    for row in data["variants"]:
        values = [row[name][what] if row[name] else None for name in MEASURES for what in ("mean", "sd")]
        writer.writerow([row["label"], len(row["seeds"]), row["rounds"], *values])
    return text.getvalue()


def remark(row: dict[str, Any]) -> str:
    """Return what a reader must know of a variant before comparing it; empty for most."""
    remarks = []
    if row["interrupted"]:
        remarks.append(f"interrupted after round {row['rounds']} of {row['rounds_asked']}")
    if row["diverged"]:
        remarks.append(f"{row['diverged']} of {len(row['seeds'])} runs diverged")
    return f" ({'; '.join(remarks)})" if remarks else ""


def _column(
    rows: Sequence[dict[str, Any]], name: str, part: str, heading: str, unit: str, size: float = 1.0,
    digits: int = 4, best: Any = None,
) -> Column:  # fmt: skip
    """digits: significant ones of the largest mean, whose decimal places all cells share; 0: none at all."""
    means = [row[name]["mean"] / size for row in rows if row[name]]
    decimals = min((places(mean, digits) for mean in means if mean), default=0) if digits else 0
    winner = (
        best(means) if best and len(set(means)) > 1 and not any(r["random_weights"] for r in rows) else None
    )
    cells = []
    for row in rows:
        value = row[name]
        if value is None:
            cells.append(Cell("–"))
            continue
        mean = value["mean"] / size
        sd = value["sd"] / size if value["sd"] is not None and name != "trained_parameters" else None
        least = 10.0**-decimals
        text = f"< {least:.{decimals}f}" if 0 < mean < least / 2 else mean_and_sd(mean, sd, decimals)
        cells.append(Cell(text, mean == winner))
    return Column(part, heading, unit, cells)


def _largest(rows: Sequence[dict[str, Any]], name: str) -> float:
    return max((row[name]["mean"] for row in rows if row[name]), default=0.0)
