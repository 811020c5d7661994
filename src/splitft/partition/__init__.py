"""Who gets which rows: pure functions from lengths, labels or sources to row indices per client."""

from __future__ import annotations

from splitft.partition.by_column import by_column, client_names
from splitft.partition.dirichlet import dirichlet, label_classes
from splitft.partition.files import files
from splitft.partition.held_out import held_out
from splitft.partition.iid import iid
from splitft.partition.length_dirichlet import length_classes, length_dirichlet, length_edges, length_names
from splitft.partition.report import PartitionReport

__all__ = [
    "PartitionReport",
    "by_column",
    "client_names",
    "dirichlet",
    "files",
    "held_out",
    "iid",
    "label_classes",
    "length_classes",
    "length_dirichlet",
    "length_edges",
    "length_names",
]
