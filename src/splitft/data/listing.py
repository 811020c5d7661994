"""The partition as a table for the terminal, and the merging of classes for table and picture."""

from __future__ import annotations

from itertools import pairwise

from rich.table import Table
from rich.text import Text

from splitft.common.tables import make_table
from splitft.common.text import short_count
from splitft.data.partition.length_dirichlet import length_names
from splitft.data.report import DataReport

MAX_CLASSES = 6  # columns of shares that a terminal has room for
OTHER = "other"


def partition_table(report: DataReport) -> Table:
    """One line per client: rows, held-out rows, tokens, median length, share of each class; 80 columns."""
    names, counts = merge_classes(report, MAX_CLASSES)
    headings = ("client", "rows", "eval" if report.eval_set else "held out", "tokens", "median", *names)
    title, caption = partition_title(report), _caption(report)
    table = make_table(title, *headings, caption=caption, padding=(0, 1, 0, 0))
    for client, row in zip(report.clients, counts, strict=True):
        median = client.length_quantiles[2]
        total = max(sum(row), 1)
        table.add_row(
            Text(client.name),
            f"{client.train_rows:,}",
            f"{client.eval_rows:,}",
            short_count(client.train_tokens),
            str(median),
            *(f"{100 * count / total:.0f} %" for count in row),
        )
    return table


def merge_classes(report: DataReport, most: int) -> tuple[list[str], list[list[int]]]:
    """Class names and counts (client, class) with at most `most` classes; the smallest labels merge.

    Length classes are ordered: neighbours merge instead, so that each still is one range of lengths.
    """
    names = list(report.classes)
    counts = [list(client.class_counts) for client in report.clients]
    if len(names) <= most:
        return names, counts
    if report.edges:
        bounds = [round(i * len(names) / most) for i in range(most + 1)]
        edges = [report.edges[end - 1] for end in bounds[1:-1]]
        merged = [[sum(row[a:b]) for a, b in pairwise(bounds)] for row in counts]
        return list(length_names(edges)), merged
    totals = [sum(row[k] for row in counts) for k in range(len(names))]
    largest = sorted(sorted(range(len(names)), key=lambda k: -totals[k])[: most - 1])
    kept = [[row[k] for k in largest] for row in counts]
    rest = [sum(row) - sum(own) for row, own in zip(counts, kept, strict=True)]
    return [*(names[k] for k in largest), OTHER], [
        [*own, other] for own, other in zip(kept, rest, strict=True)
    ]


def partition_title(report: DataReport) -> str:
    """Method, concentration and number of clients."""
    alpha = "" if report.alpha is None else f" with alpha {report.alpha:g}"
    return f"Who holds what: {report.method}{alpha}, {len(report.clients)} clients"


def _caption(report: DataReport) -> str:
    held = f"evaluation rows: {report.eval_set}" if report.eval_set else f"held out by {report.document_of}"
    parts = [held]
    if report.leaked_eval_rows:
        side = "evaluation" if report.eval_set else "held-out"
        parts.append(f"{report.leaked_eval_rows:,} {side} rows also trained on")
    lost = f"{100 * report.truncated_share:.0f} %" if report.truncated_share >= 0.01 else "< 1 %"
    for count, what in (
        (report.dropped_blank, "blank"),
        (report.dropped_without, "with text in other columns alone"),
        (report.dropped_short, "too short"),
        (report.dropped_without_loss, "without loss"),
        (report.truncated, f"cut at max_length ({lost} of all tokens; truncation_mode=chunk keeps them)"),
        (report.unused, "beyond max_train_samples or max_eval_samples"),
    ):
        if count:
            parts.append(f"{count:,} row{'s' * (count > 1)} {what}")
    rows, blocks = (
        sum(getattr(own, key) for own in report.clients) for key in ("train_rows", "train_blocks")
    )
    if rows != blocks:
        parts.append(f"{blocks:,} rows to train on, of at most max_length tokens")
    return "; ".join(parts)
