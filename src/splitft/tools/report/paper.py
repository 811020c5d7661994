"""A table as papers print them: LaTeX with booktabs, the text beside it, and the figures as PDF and SVG."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitft.common.figures import style
from splitft.common.files import write_atomically, writing
from splitft.errors import OutputError
from splitft.tools.report.charts.compose import Composed
from splitft.tools.report.charts.svg import FONT
from splitft.tools.report.compared import read_paired
from splitft.tools.report.conditions import conditions
from splitft.tools.report.difference_section import difference_section
from splitft.tools.report.downloads import slug
from splitft.tools.report.groups import Variant
from splitft.tools.report.page import chart_sections
from splitft.tools.report.paired import half_width, signed
from splitft.tools.report.saved import csv_text, latex_text
from splitft.tools.report.table import decided_best, remark
from splitft.tools.report.units import byte_unit, figure, mean_and_sd, places, time_unit
from splitft.tools.report.verdict import sentences, target_note

TABLE, TEXT, NUMBERS, FIGURES = "table.tex", "text.txt", "table.csv", "figures"
_MARK = "% splitft report --paper"  # the first line of a table that may be written anew
_WORD = "SplitFT"


@dataclass(frozen=True)
class Measure:
    """A column: its name in `report_data`, heading, unit, size of the unit, digits, and which end is good."""

    name: str
    heading: str
    unit: str
    size: float = 1.0
    digits: int = 4
    best: Any = None


def check_paper(folder: Path) -> None:
    """Raise OutputError where the folder holds anything but what an earlier report wrote there."""
    table = folder / TABLE
    if not os.path.lexists(folder) or (table.is_file() and table.read_text("utf-8").startswith(_MARK)):
        return
    raise OutputError(f"{folder} is there already and is no table of a report; move it away, or choose --out")


def write_paper(variants: Sequence[Variant], data: Mapping[str, Any], title: str, folder: Path) -> None:
    """Write table.tex, table.csv, text.txt, and each figure as PDF and SVG, into the folder."""
    with writing(folder, "free the disk, or choose another --out"):
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    headings, rows, bold = paper_table(data)
    caption = f"{title}. {caption_text(data)}"
    comment = f"{_MARK[2:]}\nneeds \\usepackage{{booktabs}}"
    text = latex_text(headings, rows, bold=bold, comment=comment, caption=caption, label=f"tab:{slug(title)}")
    write_atomically(folder / TABLE, text)
    write_atomically(folder / NUMBERS, csv_text([one.replace("\n", ", ") for one in headings], rows))
    write_atomically(folder / TEXT, beside(variants, data, title))
    for name, drawn, description in _figures(variants, data):
        write_atomically(folder / FIGURES / f"{name}.svg", drawn.svg(description))
        with writing(folder, "free the disk"):
            (folder / FIGURES / f"{name}.pdf").write_bytes(drawn.pdf())


def paper_table(data: Mapping[str, Any]) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """Return headings, rows, and the cells in bold: better than all others by intervals that exclude 0."""
    rows: Sequence[dict[str, Any]] = data["variants"]
    headings = ["variant", "seeds"]
    cells = [[row["label"] + remark(row), str(len(row["seeds"]))] for row in rows]
    bold: set[tuple[int, int]] = set()
    for measure in _measures(data):
        if measure.best:
            bold |= {(row, len(headings)) for row in decided_best(rows, measure.name, measure.best)}
        headings.append(f"{measure.heading}\n{measure.unit}")
        for own, cell in zip(cells, _column(rows, measure), strict=True):
            own.append(cell)
        if measure.name == "perplexity" and len(rows) > 1:
            headings.append("Δ perplexity\n%")
            for own, row in zip(cells, rows, strict=True):
                own.append(_against(row, data["reference"]))
    return headings, cells, bold


def caption_text(data: Mapping[str, Any]) -> str:
    """Return what the cells are, for the caption."""
    counts = sorted({len(row["seeds"]) for row in data["variants"]})
    seeds = " or ".join(map(str, counts))
    text = f"Mean ± half the 95 % interval (Student's t) over n = {seeds} seeds"
    if counts == [1]:
        return "One seed: there are no intervals, and no difference is decided."
    if data["reference"]:
        text += (
            f"; Δ perplexity: difference to {data['reference']}, paired by seed, with its 95 % interval. "
            "Bold: better than every other variant, each paired interval excluding 0"
        )
    return f"{text}."


def beside(variants: Sequence[Variant], data: Mapping[str, Any], title: str) -> str:
    """Return the text beside the table: what was found, how it was measured, under which conditions."""
    plain = dict(data)
    found = [*sentences(plain), target_note(plain)]
    remarks = [row["label"] + remark(row) for row in data["variants"] if remark(row)]
    how = [
        caption_text(data),
        "Perplexity per token and accuracy of the next token, on held-out rows after the last round.",
        "Sent: training and adapters of all clients together, up and down, without evaluation.",
    ]
    if any(row["virtual_seconds"] for row in data["variants"]):
        how.append(
            "Virtual time is simulated from the devices named below; nothing was timed on such devices."
        )
    parts = [
        title,
        *(part for part in found if part),
        *(f"Note: {one}." for one in remarks),
        "\n".join(how),
        "\n".join(f"{name}: {value}" for name, value in conditions(variants)),
    ]
    return "\n\n".join(parts) + "\n"


def _measures(data: Mapping[str, Any]) -> list[Measure]:
    rows = data["variants"]
    size_name, size = byte_unit(_largest(rows, "bytes_training"))
    time_name, second = time_unit(_largest(rows, "virtual_seconds"))
    reach = "" if data["target_perplexity"] is None else f" to ppl {figure(data['target_perplexity'])}"
    possible = [
        Measure("perplexity", "perplexity ↓", "per token", best=min),
        Measure("accuracy", "accuracy ↑", "%", 0.01, 3, best=max),
        Measure("bytes_training", "sent", size_name, size),
        Measure("virtual_seconds", "virtual time", time_name, second),
        Measure("virtual_seconds_to_target", f"virtual time{reach} ↓", time_name, second, best=min),
    ]
    return [measure for measure in possible if any(row[measure.name] for row in rows)]


def _column(rows: Sequence[Mapping[str, Any]], measure: Measure) -> list[str]:
    """Mean ± half the interval, all with the decimal places of the least exact mean."""
    means = [row[measure.name]["mean"] / measure.size for row in rows if row[measure.name]]
    decimals = min((places(mean, measure.digits) for mean in means if mean), default=0)
    cells = []
    for row in rows:
        found = row[measure.name]
        if found is None:
            cells.append("–")
            continue
        half = None if found["sd"] is None else half_width(found["sd"], found["count"]) / measure.size
        cells.append(mean_and_sd(found["mean"] / measure.size, half, decimals))
    return cells


def _against(row: Mapping[str, Any], reference: str) -> str:
    if row["label"] == reference:
        return "reference"
    if "perplexity" not in row["against"]:
        return "–"
    found = read_paired(row["against"]["perplexity"])
    if found.low is None or found.high is None or found.low == found.high:
        return signed(found.mean)
    return f"{signed(found.mean)} [{signed(found.low)}, {signed(found.high)}]"


def _figures(variants: Sequence[Variant], data: Mapping[str, Any]) -> Iterator[tuple[str, Composed, str]]:
    """Yield name, figure and description of each section of charts."""
    with style(FONT):
        differences = difference_section(data)
        for section in [*([differences] if differences else []), *chart_sections(variants)]:
            yield slug(section.title), section.figure(), section.title


def _largest(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return max((row[name]["mean"] for row in rows if row[name]), default=0.0)
