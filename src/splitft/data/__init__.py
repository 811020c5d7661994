"""From files to batches: reading, tokens, the held-out split, rows per client, and what to show of it."""

from __future__ import annotations

from splitft.data.batches import Batch, BatchStream, collate, first_lengths, split_rows, train_stream
from splitft.data.holdout import hold_out
from splitft.data.listing import partition_table
from splitft.data.picture import partition_picture
from splitft.data.prepare import ClientData, Prepared, prepare
from splitft.data.records import Records, read_records
from splitft.data.report import ClientReport, DataReport
from splitft.data.rows import Rows, join, pack
from splitft.data.tokenize import tokenize

__all__ = [
    "Batch",
    "BatchStream",
    "ClientData",
    "ClientReport",
    "DataReport",
    "Prepared",
    "Records",
    "Rows",
    "collate",
    "first_lengths",
    "hold_out",
    "join",
    "pack",
    "partition_picture",
    "partition_table",
    "prepare",
    "read_records",
    "split_rows",
    "tokenize",
    "train_stream",
]
