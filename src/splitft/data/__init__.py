"""From files to batches: reading, tokens, the held-out split, rows per client, and what to show of it."""

from __future__ import annotations

from splitft.data.batches import Batch, collate, first_lengths, split_rows, train_stream
from splitft.data.listing import partition_table
from splitft.data.picture import partition_picture
from splitft.data.prepare import ClientData, Prepared, prepare
from splitft.data.rows import Rows, join

__all__ = [
    "Batch",
    "ClientData",
    "Prepared",
    "Rows",
    "collate",
    "first_lengths",
    "join",
    "partition_picture",
    "partition_table",
    "prepare",
    "split_rows",
    "train_stream",
]
