"""The data of all clients in figures: rows and tokens of each client, and their classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from splitft.data.rows import Rows

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class ClientReport:
    """One client's rows.

    Attributes:
        name: The client.
        train_rows: Training rows dealt or drawn, before packing.
        eval_rows: Held-out rows, before packing.
        train_tokens: Tokens in its training rows, after truncation.
        eval_tokens: Tokens in its held-out rows.
        train_blocks: Rows it trains on: blocks with packing, else equal to train_rows.
        length_quantiles: Tokens of its training rows before truncation at 5, 25, 50, 75, 95 and 100 %.
        class_counts: Training rows of each class.
    """

    name: str
    train_rows: int
    eval_rows: int
    train_tokens: int
    eval_tokens: int
    train_blocks: int
    length_quantiles: tuple[int, ...]
    class_counts: tuple[int, ...]


@dataclass(frozen=True)
class DataReport:
    """All clients' rows, and what was left out.

    Attributes:
        method: Partition method.
        alpha: Its Dirichlet concentration, if it has one.
        classes: Names of the classes that `class_counts` counts: length classes, or labels for dirichlet.
        class_title: Meaning of the classes.
        edges: Largest token length of every length class but the last; empty for labels.
        document_of: Kind of document, held out as a whole: a column's name, "file" or "row".
        clients: One entry per client.
        dropped_blank: Rows without text.
        dropped_short: Rows of fewer than 2 tokens.
        dropped_without_loss: Rows in which no token carries loss.
        truncated: Rows cut at max_length.
        unused: Rows beyond max_train_samples and max_eval_samples.
    """

    method: str
    alpha: float | None
    classes: tuple[str, ...]
    class_title: str
    edges: tuple[int, ...]
    document_of: str
    clients: tuple[ClientReport, ...]
    dropped_blank: int
    dropped_short: int
    dropped_without_loss: int
    truncated: int
    unused: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def length_quantiles(rows: Rows) -> tuple[int, ...]:
    """Token lengths before truncation at QUANTILES; zeros without rows."""
    if not len(rows):
        return (0,) * len(QUANTILES)
    values = np.quantile(rows.full_lengths, QUANTILES, method="inverted_cdf")
    return tuple(int(value) for value in values)
