"""Natural sites: one client per value of a column, or per data file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from splitft.common.text import first_few
from splitft.data.partition.dirichlet import label_classes
from splitft.data.partition.report import PartitionReport, as_counts
from splitft.data.partition.shares import Quota, hand_out
from splitft.data.rows import Indices
from splitft.errors import DataError

NAME_LENGTH = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")


def by_column(values: Sequence[str] | Sequence[int], quota: Quota) -> tuple[list[Indices], PartitionReport]:
    """One client for each value of a column in the rows, in the order of the sorted values.

    Returns:
        Sorted row indices per client, and the report whose classes are the values.

    Raises:
        DataError: No rows, or a value with fewer than `min_rows` rows.
    """
    labels, classes = label_classes(values)
    return _natural_sites("by_column", labels, classes, quota)


def files(source: ArrayLike, names: Sequence[str], quota: Quota) -> tuple[list[Indices], PartitionReport]:
    """One client for each data file, in the order of the files.

    Args:
        source: Number of the file that each row came from, (rows,).
        names: One name per file.
        quota: The rows of each client.

    Returns:
        Sorted row indices per client, and the report whose classes are the files.

    Raises:
        DataError: A file with fewer than `min_rows` rows.
    """
    return _natural_sites("files", names, np.asarray(source, dtype=np.int64), quota)


def _natural_sites(
    method: str, labels: Sequence[str], classes: Indices, quota: Quota
) -> tuple[list[Indices], PartitionReport]:
    """One client per class: all of its rows, or an exact number drawn from them."""
    if not labels:
        raise DataError("no training rows to deal: check the data files and eval_fraction")
    sizes = np.bincount(classes, minlength=len(labels)).astype(np.int64)
    needed = max(quota.min_rows, 1)
    poor = [f"{label!r} ({size})" for label, size in zip(labels, sizes, strict=True) if size < needed]
    if poor:
        raise DataError(
            f"clients with fewer than {needed} training rows: {first_few(poor, 5)}; leave them out of the "
            "data, or lower partition.min_rows or eval_fraction"
        )
    if quota.samples_per_client is not None:
        sizes = np.full(len(labels), quota.samples_per_client, dtype=np.int64)
    counts = np.diag(sizes)
    indices = hand_out(classes, counts, quota.generator(method))
    report = PartitionReport(method, client_names(labels), tuple(labels), as_counts(counts))
    return indices, report


def client_names(values: Sequence[str]) -> tuple[str, ...]:
    """Names that are safe as file names and on the wire: [a-z0-9][a-z0-9_-]{0,63}, unique, in order.

    A value that is such a name already keeps it; the others are lowered, stripped of accents, and numbered
    where two values would get the same name.
    """
    taken = {value for value in values if _NAME.match(value)}
    kept: set[str] = set()
    names = []
    for value in values:
        if value in taken and value not in kept:
            kept.add(value)
            names.append(value)
            continue
        name = _unused(_plain(value), taken)
        taken.add(name)
        names.append(name)
    return tuple(names)


def _plain(value: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_-]+", "-", ascii_only).strip("-_")[:NAME_LENGTH] or "site"


def _unused(name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        suffix = f"-{number}"
        candidate, number = name[: NAME_LENGTH - len(suffix)] + suffix, number + 1
    return candidate
