"""The data of all clients in figures: rows and tokens of each client, and their classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from splitft.data.partition.length_dirichlet import length_classes
from splitft.data.rows import Rows

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class ClientReport:
    """One client's rows."""

    name: str
    train_rows: int  # dealt or drawn, before packing
    eval_rows: int  # before packing
    train_tokens: int  # after truncation
    eval_tokens: int
    train_blocks: int  # rows that it trains on: blocks with packing, else train_rows
    length_quantiles: tuple[int, ...]  # tokens of its training rows before truncation, at QUANTILES
    class_counts: tuple[int, ...]  # training rows of each class
    leaked_eval_rows: int  # evaluation rows whose text some client also trains on


@dataclass(frozen=True)
class DataReport:
    """All clients' rows, and those that were left out."""

    method: str
    alpha: float | None  # the method's Dirichlet concentration, if it has one
    classes: tuple[str, ...]  # names of what class_counts counts: length classes, or labels for dirichlet
    class_title: str  # meaning of the classes
    edges: tuple[int, ...]  # largest token length of every length class but the last; empty for labels
    document_of: str  # kind of document, held out as a whole: a column's name, "file" or "row"
    clients: tuple[ClientReport, ...]
    eval_set: str  # evaluation set that the job names; empty: training rows are held out
    dropped_blank: int  # rows without text
    dropped_without: int  # rows whose text is in other columns
    dropped_short: int  # rows of fewer than 2 tokens
    dropped_without_loss: int  # rows in which no token carries loss
    truncated: int  # rows cut at max_length
    truncated_tokens: int  # tokens that were cut off these
    read_tokens: int  # tokens of all rows in use, before they were cut
    unused: int  # rows beyond max_train_samples and max_eval_samples

    @property
    def eval_rows(self) -> int:
        """Evaluation rows of all clients."""
        return sum(client.eval_rows for client in self.clients)

    @property
    def leaked_eval_rows(self) -> int:
        """Evaluation rows whose text is also trained on."""
        return sum(client.leaked_eval_rows for client in self.clients)

    @property
    def truncated_share(self) -> float:
        """Share of all tokens that were cut off at max_length."""
        return self.truncated_tokens / self.read_tokens if self.read_tokens else 0.0

    def summary(self) -> dict[str, Any]:
        """Return what a result depends on, for summary.json."""
        return {
            "eval_set": self.eval_set or "held out",
            "eval_rows": self.eval_rows,
            "leaked_eval_rows": self.leaked_eval_rows,
            "truncated_rows": self.truncated,
            "truncated_tokens_share": self.truncated_share,
            "rows_left_out": self.dropped_blank
            + self.dropped_without
            + self.dropped_short
            + self.dropped_without_loss,
        }


def length_quantiles(rows: Rows) -> tuple[int, ...]:
    """Token lengths before truncation at QUANTILES; zeros without rows."""
    if not len(rows):
        return (0,) * len(QUANTILES)
    values = np.quantile(rows.full_lengths, QUANTILES, method="inverted_cdf")
    return tuple(int(value) for value in values)


def length_counts(rows: Rows, edges: tuple[int, ...]) -> tuple[int, ...]:
    """Rows of each length class."""
    classes = length_classes(rows.full_lengths, edges)
    return tuple(np.bincount(classes, minlength=len(edges) + 1).tolist())
