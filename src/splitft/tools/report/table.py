"""The verdict as a table: for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from splitft.common.tables import make_table
from splitft.tools.report.units import byte_unit, figure, mean_and_sd, places, time_unit

QUALITY, COST, TIME, SENT = "Reached", "Cost", "Simulated time", "All that was sent"


@dataclass(frozen=True)
class Column:
    """One column, a cell a variant; part: the table of the terminal; best: the rows with the best mean."""

    part: str
    heading: str
    unit: str
    cells: list[str]
    best: Collection[int] = ()


def verdict_columns(data: dict[str, Any]) -> list[Column]:
    """Return the columns of `report_data` beside the label; those that no variant fills are left out."""
    rows = data["variants"]
    target = data["target_perplexity"]
    seconds, second = time_unit(_largest(rows, "virtual_seconds"))
    size_name, size = byte_unit(max(_largest(rows, "bytes_up"), _largest(rows, "bytes_down")))
    millions = _largest(rows, "trained_parameters") >= 1e6
    reach = "" if target is None else f"to perplexity {figure(target)}"
    columns = [
        Column(QUALITY, "seeds", "number", [str(len(row["seeds"])) for row in rows]),
        _column(rows, "perplexity", QUALITY, "perplexity", "per token", best=min),
        _column(rows, "accuracy", QUALITY, "accuracy", "% of next tokens", 0.01, 3, best=max),
        _column(rows, "paper_accuracy", QUALITY, "paper accuracy", "%", 0.01, 3),
        _column(rows, "bytes_up", COST, "sent up", size_name, size),
        _column(rows, "bytes_down", COST, "sent down", size_name, size),
        _column(rows, "bytes_to_target", COST, f"sent {reach}", size_name, size),
        _column(rows, "bytes_training", SENT, "training", size_name, size),
        _column(rows, "bytes_evaluation", SENT, "evaluation", size_name, size),
        _column(rows, "bytes_both", SENT, "both", size_name, size),
        _column(rows, "virtual_seconds", TIME, "virtual time", seconds, second),
        _column(rows, "virtual_seconds_to_target", TIME, f"virtual time {reach}", seconds, second, best=min),
        _column(
            rows, "trained_parameters", COST, "trained parameters",
            "million" if millions else "number", 1e6 if millions else 1.0, 4 if millions else 0,
        ),
    ]  # fmt: skip
    return [column for column in columns if set(column.cells) != {"–"}]


def verdict_tables(data: dict[str, Any]) -> list[Table]:
    """Return the table for the terminal, in parts that 80 columns hold."""
    tables = []
    columns = verdict_columns(data)
    for part in dict.fromkeys(column.part for column in columns):
        own = [column for column in columns if column.part == part]
        headings = [f"{column.heading}\n{column.unit}" for column in own]
        table = make_table(f"{part}: means over seeds ± sd", "variant", *headings, padding=(0, 1, 0, 0))
        for number, row in enumerate(data["variants"]):
            shown = [Text(c.cells[number], style="bold" if number in c.best else "") for c in own]
            table.add_row(Text(row["label"] + remark(row)), *shown)
        tables.append(table)
    return tables


def remark(row: dict[str, Any]) -> str:
    """Return what a reader must know of a variant before comparing it; empty for most."""
    remarks = []
    if row["interrupted"]:
        remarks.append(f"interrupted after round {row['rounds']} of {row['rounds_asked']}")
    if row["diverged"]:
        remarks.append(f"{row['diverged']} of {len(row['seeds'])} runs diverged")
    if row["unchanged"]:
        whose = "" if row["unchanged"] == len(row["seeds"]) else f" in {row['unchanged']} of its runs"
        remarks.append(f"the adapter did not change{whose}")
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
    cells, winners = [], []
    for number, row in enumerate(rows):
        value = row[name]
        if value is None:
            cells.append("–")
            continue
        mean = value["mean"] / size
        sd = value["sd"] / size if value["sd"] is not None and name != "trained_parameters" else None
        least = 10.0**-decimals
        text = f"< {least:.{decimals}f}" if 0 < mean < least / 2 else mean_and_sd(mean, sd, decimals)
        cells.append(text)
        if mean == winner:
            winners.append(number)
    return Column(part, heading, unit, cells, winners)


def _largest(rows: Sequence[dict[str, Any]], name: str) -> float:
    return max((row[name]["mean"] for row in rows if row[name]), default=0.0)
