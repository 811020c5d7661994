"""The rows of a job before tokenising: samples, documents and sources."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from splitft.common.text import first_few
from splitft.data import columns as col
from splitft.data.rows import Indices
from splitft.data.sources import Sources, read_sources
from splitft.data.table import Table
from splitft.errors import DataError
from splitft.job.settings import DataSettings
from splitft.weights.random_models import BUILTIN


def reads_column(method: str) -> bool:
    """Return whether a partition reads the values of `partition.column`, where the job names one."""
    return method not in ("iid", "length_dirichlet", "files")


Sample = tuple[Any, ...]


@dataclass(frozen=True)
class Records:
    """Rows as read; lists and arrays have one entry per row."""

    kind: col.Kind
    samples: list[Sample]  # (text,), (prompt, completion) or (messages,)
    documents: Indices  # rows of one document are held out together
    document_of: str  # kind of document: a column's name, "file" or "row"
    sources: Indices
    source_names: tuple[str, ...]  # client name of each source
    labels: list[str]  # values of the partition column; empty where the partition reads none
    places: list[str]  # file and line, for messages
    dropped_blank: int  # rows left out because they hold no text

    def __len__(self) -> int:
        return len(self.samples)


def read_records(job: DataSettings) -> Records:
    """Read and check all rows that a job names.

    Raises DataError for a file that cannot be read, a wrong column or value, or no rows at all.
    """
    sources = read_sources(job)
    tables = [(number, table) for number, own in enumerate(sources.values()) for table in own]
    filled = [(number, table) for number, table in tables if len(table)]
    if not filled:
        raise DataError(f"no rows in {first_few([table.name for _, table in tables], 3)}")
    kind = col.detect_kind(filled[0][1], job.dataset_text_field, "dataset_text_field" in job.model_fields_set)
    label_column = job.partition.column if reads_column(job.partition.method) else None
    document_of = _document_of(job, sources)

    samples: list[Sample] = []
    documents: list[Hashable] = []
    owners: list[int] = []
    labels: list[str] = []
    places: list[str] = []
    # Keep the rows with text of every table that has rows
    for file, (number, table) in enumerate(filled):
        read = _samples(table, kind, job.dataset_text_field)
        keep = [row for row, sample in enumerate(read) if not col.is_blank(sample)]
        samples += [read[row] for row in keep]
        documents += [_document(table, document_of, file, row) for row in keep]
        owners += [number] * len(keep)
        places += [table.place(row) for row in keep]
        if label_column is not None:
            values = col.check_labels(table, label_column, "partition.column")
            labels += [values[row] for row in keep]
    if not samples:
        raise DataError(f"no row with text in {first_few([table.name for _, table in filled], 3)}")
    return Records(
        kind=kind,
        samples=samples,
        documents=_numbered(documents),
        document_of=document_of,
        sources=np.asarray(owners, dtype=np.int64),
        source_names=tuple(sources),
        labels=labels,
        places=places,
        dropped_blank=sum(len(table) for _, table in filled) - len(samples),
    )


def _samples(table: Table, kind: col.Kind, text_field: str) -> list[Sample]:
    names = col.COLUMNS.get(kind, (text_field,))
    for name in names:
        col.require_column(table, name, "the first file has it")
    plain = kind == "text" or (kind != "messages" and isinstance(table.columns["prompt"][0], str))
    check = col.check_text if plain else col.check_messages
    return [tuple(check(table, name, row) for name in names) for row in range(len(table))]


def _document_of(job: DataSettings, sources: Sources) -> str:
    """Return the job's document_column; else a document is a speech, a text file among many, or a row.

    Whole files are held out only if there are enough of them to hold out the asked share, and not where each
    file is a client, which must keep rows on both sides.
    """
    if job.document_column is not None:
        return job.document_column
    if job.dataset_name is not None and job.dataset_name.startswith(BUILTIN):
        return "speech"
    files = [table.name for tables in sources.values() for table in tables]
    texts = all(name.lower().endswith(".txt") for name in files)
    own_clients = job.partition.method == "files" and len(files) == len(sources)
    if texts and job.data_files is not None and not own_clients and len(files) * job.eval_fraction >= 1:
        return "file"
    return "row"


def _document(table: Table, document_of: str, file: int, row: int) -> Hashable:
    if document_of == "file":
        return file
    if document_of == "row":
        return file, row
    value = col.require_column(table, document_of, "document_column")[row]
    return (file, row) if value is None else str(value)


def _numbered(keys: list[Hashable]) -> Indices:
    number: dict[Hashable, int] = {}
    return np.asarray([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)
