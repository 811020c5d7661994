"""Partitions: pure functions from lengths, labels or sources to row indices per client."""

from __future__ import annotations

from splitft.data.partition.dirichlet import dirichlet, label_classes
from splitft.data.partition.held_out import held_out
from splitft.data.partition.iid import iid
from splitft.data.partition.length_dirichlet import (
    length_classes,
    length_dirichlet,
    length_edges,
    length_names,
)
from splitft.data.partition.report import PartitionReport
from splitft.data.partition.shares import Quota
from splitft.data.partition.sites import by_column, client_names, files

__all__ = [
    "PartitionReport",
    "Quota",
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
