"""Data sets as Python objects, in the place of the files that a job names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from splitft.data.sources import Sources, wanted_columns
from splitft.data.table import Table, table_of
from splitft.errors import DataError
from splitft.job.settings import DataSettings


def sources_of(name: str, data: Any, job: DataSettings) -> Sources:
    """Return the tables of a data set, or of each client's.

    name: the argument that holds it, for messages. data: a `datasets.Dataset`, a sequence of rows (texts, or
    {column: value}), or {client: one of these}. Raises DataError for anything else.
    """
    if by_client(data):
        return {str(client): [_table(f"{name}[{client!r}]", own, job)] for client, own in data.items()}
    return {"data": [_table(name, data, job)]}


def by_client(data: Any) -> bool:
    """Return whether an object is {client: data set}, and not the splits of one data set."""
    return isinstance(data, Mapping) and not hasattr(data, "column_names")


def check_data_set(name: str, data: Any) -> None:
    """Raise DataError where an object is no data set, nor {client: data set}."""
    if by_client(data):
        for client, own in data.items():
            check_data_set(f"{name}[{client!r}]", own)
    elif hasattr(data, "column_names"):
        if isinstance(data, Mapping) or not hasattr(data, "__len__"):
            raise DataError(
                f"{name} is a {type(data).__name__}: give one split of it, loaded whole (a datasets.Dataset)"
            )
    elif isinstance(data, str | bytes) or not isinstance(data, Sequence):
        raise DataError(
            f"{name} must be a datasets.Dataset, a list of texts, a list of {{column: value}}, or a dict of "
            f"these by client, not {type(data).__name__}"
        )


def _table(name: str, data: Any, job: DataSettings) -> Table:
    if hasattr(data, "column_names"):
        return table_of(name, data, wanted_columns(job))
    rows = [{job.dataset_text_field: row} if isinstance(row, str) else row for row in data]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise DataError(f"{name}, row {number}: must be a text or {{column: value}}, not {row!r:.60}")
    names = list(dict.fromkeys(column for row in rows for column in row))
    columns = {column: [row.get(column) for row in rows] for column in names}
    return Table(name, columns, list(range(1, len(rows) + 1)), "row")
