"""Tokenised rows in columns, and packing them into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IGNORE = -100  # label of a token that carries no loss, as in torch and transformers
Tokens = NDArray[np.int32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Tokenised rows; every attribute has one entry per row."""

    input_ids: list[Tokens]  # (tokens,) each
    labels: list[Tokens]  # the same ids, or -100 where a token carries no loss; not shifted
    full_lengths: Indices  # tokens before truncation at max_length; the length classes go by them
    records: Indices  # number of the record that the row came from

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
            self.full_lengths[order],
            self.records[order],
        )


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one part after another; at least one part."""
    return Rows(
        [ids for part in parts for ids in part.input_ids],
        [labels for part in parts for labels in part.labels],
        np.concatenate([part.full_lengths for part in parts]),
        np.concatenate([part.records for part in parts]),
    )


def has_loss(labels: Tokens) -> bool:
    """Whether a row trains anything: some token after the first carries loss."""
    return bool((labels[1:] != IGNORE).any())


def pack(rows: Rows, max_length: int) -> Rows:
    """Join the rows and cut blocks of exactly `max_length` tokens.

    The last block may be shorter; it is dropped below 2 tokens. Blocks without any loss are dropped too. The
    record of a block is that of its first token. Attention crosses the rows inside a block, as in the usual
    pre-training recipe. Raises ValueError for a max_length below 2.
    """
    if max_length < 2:
        raise ValueError("max_length must be at least 2")
    if not len(rows):
        return rows
    ids, labels = np.concatenate(rows.input_ids), np.concatenate(rows.labels)
    starts = [s for s in range(0, len(ids), max_length) if has_loss(labels[s : s + max_length])]
    first_rows = np.searchsorted(np.cumsum(rows.lengths), starts, side="right")
    blocks = [ids[s : s + max_length] for s in starts]
    return Rows(
        blocks,
        [labels[s : s + max_length] for s in starts],
        np.asarray([len(block) for block in blocks], dtype=np.int64),
        rows.records[first_rows],
    )


def chunk(rows: Rows, max_length: int) -> Rows:
    """Cut each row into rows of `max_length` tokens; the last one is shorter, and none is without loss.

    A row that is short enough stays as it is. Raises ValueError for a max_length below 2.
    """
    if max_length < 2:
        raise ValueError("max_length must be at least 2")
    pieces = [
        (row, slice(start, start + max_length))
        for row, labels in enumerate(rows.labels)
        for start in range(0, len(labels), max_length)
        if has_loss(labels[start : start + max_length])
    ]
    ids = [rows.input_ids[row][part] for row, part in pieces]
    return Rows(
        ids,
        [rows.labels[row][part] for row, part in pieces],
        np.asarray([len(own) for own in ids], dtype=np.int64),
        rows.records[[row for row, _ in pieces]] if pieces else rows.records[:0],
    )
