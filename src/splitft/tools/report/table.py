"""The verdict as a table: for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from splitft.common.tables import make_table
from splitft.tools.report.compared import better
from splitft.tools.report.paired import signed
from splitft.tools.report.units import byte_unit, figure, mean_and_sd, places, time_unit

QUALITY, COST, TIME, SENT = "Reached", "Cost", "Simulated time", "All that was sent"
AGAINST = "Paired by seed"
SHORT = {  # heading and unit of a difference
    "perplexity": ("perplexity", "%"),
    "accuracy": ("accuracy", "percentage points"),
    "virtual_seconds_to_target": ("virtual time", "%, to the same perplexity"),
    "bytes_to_target": ("sent", "%, to the same perplexity"),
}
REFERENCE = "reference"


@dataclass(frozen=True)
class Column:
    """One column, a cell a variant; part: its table; best: rows that are decidedly better than all others."""

    part: str
    heading: str
    unit: str
    cells: list[str]
    best: Collection[int] = ()
    names: tuple[str, ...] = ()  # of the numbers of a cell, the first of which needs none
    numbers: Sequence[Sequence[float | None]] = ()  # of each cell, in the column's unit, not rounded


def verdict_columns(data: dict[str, Any]) -> list[Column]:
    """Return the columns of `report_data` beside the label; those that no variant fills are left out."""
    rows = data["variants"]
    target = data["target_perplexity"]
    seconds, second = time_unit(_largest(rows, "virtual_seconds"))
    size_name, size = byte_unit(max(_largest(rows, "bytes_up"), _largest(rows, "bytes_down")))
    millions = _largest(rows, "trained_parameters") >= 1e6
    reach = "" if target is None else f"to perplexity {figure(target)}"
    columns = [
        _seeds(rows),
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
        *(_against(data, name, heading, unit) for name, (heading, unit) in SHORT.items()),
    ]  # fmt: skip
    return [column for column in columns if set(column.cells) - {"–", REFERENCE}]


def parts_of(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Return {part: its columns}, in order."""
    parts: dict[str, list[Column]] = {}
    for column in columns:
        parts.setdefault(column.part, []).append(column)
    return {name: parts[name] for name in (QUALITY, AGAINST, TIME, COST, SENT) if name in parts}


def verdict_tables(data: dict[str, Any]) -> list[Table]:
    """Return the table for the terminal, in parts that 80 columns hold."""
    tables = []
    for part, own in parts_of(verdict_columns(data)).items():
        headings = [f"{column.heading}\n{column.unit}" for column in own]
        table = make_table(f"{part}: {how_shown(part, data)}", "variant", *headings, padding=(0, 1, 0, 0))
        for number, row in enumerate(data["variants"]):
            shown = [Text(c.cells[number], style="bold" if number in c.best else "") for c in own]
            table.add_row(Text(row["label"] + remark(row)), *shown)
        tables.append(table)
    return tables


def how_shown(part: str, data: dict[str, Any]) -> str:
    """Return what the cells of a table are."""
    if part == AGAINST:
        return f"mean difference to {data['reference']} [95 % interval]"
    return "mean over seeds ± standard deviation"


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


def verdict_file(columns: Sequence[Column], labels: Sequence[str]) -> tuple[list[str], list[list[object]]]:
    """Return headings and rows of a table for a program: a number a cell, not rounded."""
    headings = ["variant"]
    rows: list[list[object]] = [[label] for label in labels]
    for column in columns:
        names = ("", *column.names)
        headings += [f"{column.heading} ({column.unit}){name and f', {name}'}" for name in names]
        for row, found in zip(rows, column.numbers, strict=True):
            row += [*found, *[None] * (len(names) - len(found))]
    return headings, rows


def _seeds(rows: Sequence[dict[str, Any]]) -> Column:
    counts = [len(row["seeds"]) for row in rows]
    return Column(QUALITY, "seeds", "number", list(map(str, counts)), numbers=[(count,) for count in counts])


def decided_best(rows: Sequence[dict[str, Any]], name: str, best: Any) -> list[int]:
    """Return the rows with the best mean, if paired by seed they are better than every other; else none."""
    known = [number for number, row in enumerate(rows) if row[name]]
    means = {number: rows[number][name]["mean"] for number in known}
    if len(set(means.values())) < 2 or any(row["random_weights"] for row in rows):
        return []
    winner = best(means.values())
    winners = [number for number in known if means[number] == winner]
    side = -1 if best is min else 1
    others = [number for number in known if number not in winners]
    decided = all(better(rows[one], rows[other], name, side) for one in winners for other in others)
    return winners if decided else []


def _against(data: dict[str, Any], name: str, heading: str, unit: str) -> Column:
    """The difference to the reference with its interval, by seed."""
    cells = []
    for row in data["variants"]:
        found = row["against"].get(name)
        if row["label"] == data["reference"]:
            cells.append(REFERENCE)
        elif found is None:
            cells.append("–")
        elif found["low"] is None or found["low"] == found["high"]:
            cells.append(signed(found["mean"]))
        else:
            cells.append(f"{signed(found['mean'])} [{signed(found['low'])} to {signed(found['high'])}]")
    found = [row["against"].get(name, {}) for row in data["variants"]]
    numbers = [(one.get("mean"), one.get("low"), one.get("high")) for one in found]
    return Column(AGAINST, heading, unit, cells, (), ("low", "high"), numbers)


def _column(
    rows: Sequence[dict[str, Any]], name: str, part: str, heading: str, unit: str, size: float = 1.0,
    digits: int = 4, best: Any = None,
) -> Column:  # fmt: skip
    """digits: significant ones of the largest mean, whose decimal places all cells share; 0: none at all."""
    means = [row[name]["mean"] / size for row in rows if row[name]]
    decimals = min((places(mean, digits) for mean in means if mean), default=0) if digits else 0
    winners = decided_best(rows, name, best) if best else []
    cells: list[str] = []
    numbers: list[tuple[float | None, ...]] = []
    for row in rows:
        value = row[name]
        if value is None:
            cells.append("–")
            numbers.append(())
            continue
        mean = value["mean"] / size
        sd = value["sd"] / size if value["sd"] is not None and name != "trained_parameters" else None
        least = 10.0**-decimals
        text = f"< {least:.{decimals}f}" if 0 < mean < least / 2 else mean_and_sd(mean, sd, decimals)
        cells.append(text)
        numbers.append((mean, sd))
    names = ("standard deviation",) if any(len(own) > 1 and own[1] is not None for own in numbers) else ()
    numbers = [own[: 1 + len(names)] for own in numbers]
    return Column(part, heading, unit, cells, winners, names, numbers)


def _largest(rows: Sequence[dict[str, Any]], name: str) -> float:
    return max((row[name]["mean"] for row in rows if row[name]), default=0.0)
