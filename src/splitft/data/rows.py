"""Tokenised rows in columns, and packing them into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IGNORE = -100  # label of a token that carries no loss, as in torch and transformers
Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Rows:
    """Tokenised rows; every attribute has one entry per row.

    Attributes:
        input_ids: Token ids, (tokens,) each.
        labels: The same ids, or -100 where a token carries no loss, (tokens,) each; not shifted.
        documents: Document of each row.
        sources: Data file (or named client) of each row.
        full_lengths: Tokens before truncation at max_length; what the length classes go by.
        columns: Values of the partition column, if there is one.
    """

    input_ids: list[Tokens]
    labels: list[Tokens]
    documents: Indices
    sources: Indices
    full_lengths: Indices
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def lengths(self) -> Indices:
        """Tokens of each row, (rows,)."""
        return np.fromiter((len(ids) for ids in self.input_ids), dtype=np.int64, count=len(self))

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return int(self.lengths.sum())

    def select(self, indices: Sequence[int] | Indices) -> Rows:
        """The rows with these indices, in that order; an index may come twice."""
        order = np.asarray(indices, dtype=np.int64)
        return Rows(
            [self.input_ids[i] for i in order],
            [self.labels[i] for i in order],
            self.documents[order],
            self.sources[order],
            self.full_lengths[order],
            {name: [values[i] for i in order] for name, values in self.columns.items()},
        )


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one part after another; at least one part."""
    return Rows(
        [ids for part in parts for ids in part.input_ids],
        [labels for part in parts for labels in part.labels],
        np.concatenate([part.documents for part in parts]),
        np.concatenate([part.sources for part in parts]),
        np.concatenate([part.full_lengths for part in parts]),
        {name: [v for part in parts for v in part.columns[name]] for name in parts[0].columns},
    )


def has_loss(labels: Tokens) -> bool:
    """Whether a row trains anything: some token after the first carries loss."""
    return bool((labels[1:] != IGNORE).any())


def pack(rows: Rows, max_length: int) -> Rows:
    """Join the rows and cut blocks of exactly `max_length` tokens.

    The last block may be shorter; it is dropped below 2 tokens. Blocks without any loss are dropped too. The
    document, the source and the columns of a block are those of its first token. Attention crosses the rows
    inside a block, as in the usual pre-training recipe.

    Raises:
        ValueError: max_length below 2.
    """
    if max_length < 2:
        raise ValueError("max_length must be at least 2")
    if not len(rows):
        return rows
    ids, labels = np.concatenate(rows.input_ids), np.concatenate(rows.labels)
    starts = np.arange(0, len(ids), max_length)
    kept = [int(s) for s in starts if has_loss(labels[s : s + max_length])]
    ends = np.cumsum(rows.lengths)
    blocks = rows.select(np.searchsorted(ends, kept, side="right"))
    pieces = [ids[s : s + max_length] for s in kept]
    lengths = np.asarray([len(piece) for piece in pieces], dtype=np.int64)
    return Rows(
        pieces,
        [labels[s : s + max_length] for s in kept],
        blocks.documents,
        blocks.sources,
        lengths,
        blocks.columns,
    )


Indices = NDArray[np.int64]
