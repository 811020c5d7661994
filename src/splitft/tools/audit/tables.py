"""An audit for people: the terminal's tables and the page audit.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from splitft.common.tables import make_table
from splitft.tools.audit.lines import Line
from splitft.tools.audit.nulls import Null

HEADINGS = (
    "client",
    "cut",
    "of",
    "attack",
    "rows",
    "tokens",
    "rare",
    "ROUGE-L",
    "exact",
    "excess [95 %]",
    "verdict",
)
NOT_TRIED = (
    "held-out rows, which are evaluated by the same path",
    "later steps, several messages of one row together",
    "inverters that are not linear, and a search over whole rows",
    "ids hidden in the low bits of numbers, or sent encrypted",
)
WITHOUT_RUN = (
    "the adapter that is trained: membership, and sentences that it remembers (--run FOLDER)",
    "what a run leaves on disks: checkpoints, kept activations, logs (--run FOLDER)",
)
OF_A_RUN = (
    "what a running server has in its memory: all that it computes, kept samples of `codec: delta` and of "
    "frozen fronts, which are on no disk or sealed there",
    "files of other machines; rows of fewer than 8 tokens, and texts of fewer than 48 characters, in files",
    "kept tensors of several rows, of fewer than 16 tokens, or packed in fewer than 8 bits",
)


def lines_table(lines: Sequence[Line]) -> Table:
    """Return the terminal's table. In brackets: what guessing without any message reads of the same rows."""
    table = make_table("What the server could read (in brackets: by guessing)", *HEADINGS, left=4)
    for line in lines:
        table.add_row(*_cells(line.to_json()))
    return table


def nulls_table(nulls: Sequence[Null]) -> Table:
    """Return the terminal's table of the checks of the meter."""
    table = make_table("Checks of this audit", "check", "read", "must be", "holds")
    for null in nulls:
        table.add_row(*_check_cells(null.to_json()))
    return table


def closing(told: dict[str, Any]) -> list[str]:
    """Return the lines below the tables: samples, what was not tried, and a warning where a check failed."""
    lines = []
    if not all(check["ok"] for check in told["checks"]):
        lines.append("A check failed: the figures above are not to be relied upon.")
    for sample in told["samples"]:
        lines += [
            f"  true:      {_one_line(sample['true'])}",
            f"  recovered: {_one_line(sample['recovered'])}",
        ]
    lines.append("All figures are lower bounds. Not tried: " + "; ".join(told["not_tried"]) + ".")
    return lines


def page(told: dict[str, Any]) -> str:
    """Return audit.md."""
    parts = ["# What the server could read", ""]
    parts += [
        f"Model {told['model']}, codec {told['codec'] or 'none'}, labels: {told['labels']}; at most "
        f"{told['rows']} rows a client. In brackets: what guessing reads of the same rows without any "
        "message. The interval is that of the excess of tokens over guessing (bootstrap over rows).",
        "",
    ]
    parts += lines_markdown(told)
    if told["checks"]:
        parts += ["", "## Checks of this audit", ""]
        parts += _markdown(
            ("check", "read", "must be", "holds"),
            [_check_cells(check) for check in told["checks"]],
        )
    if told["samples"]:
        parts += ["", "## Samples", ""]
        parts += _markdown(
            ("true", "recovered"),
            [[_cell(s["true"]), _cell(s["recovered"])] for s in told["samples"]],
        )
    parts += ["", "## Not tried", "", *(f"- {one}" for one in told["not_tried"]), ""]
    return "\n".join(parts)


def lines_markdown(told: dict[str, Any]) -> list[str]:
    """Return the lines of an audit as a table in Markdown."""
    return _markdown(HEADINGS, [_cells(line) for line in told["lines"]])


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows)]


def _cells(line: dict[str, Any]) -> list[str]:
    reading, cut = line["reading"], "" if line["cut"] is None else str(line["cut"])
    attack = line["attack"] + (f" ({line['note']})" if line["note"] else "")
    if reading is None:
        return [line["client"], cut, line["of"], attack, *[""] * 6, line["verdict"]]

    def share(metric: str) -> str:
        own = reading[metric]
        return f"{own['value']:.1%} ({own['floor']:.1%})" if own["count"] else "-"

    excess = reading["tokens"]
    interval = f"{excess['excess']:+.2f} [{excess['low']:.2f}, {excess['high']:.2f}]"
    shares = [share(metric) for metric in ("tokens", "rare", "rouge_l", "exact")]
    return [line["client"], cut, line["of"], attack, str(reading["rows"]), *shares, interval, line["verdict"]]


def _check_cells(check: dict[str, Any]) -> list[str]:
    bound = f"{check['bound']} {check['expected']:.1%}"
    return [check["name"], f"{check['read']:.1%}", bound, "yes" if check["ok"] else "NO"]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")
