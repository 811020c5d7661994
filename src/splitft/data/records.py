"""The rows of a job before tokenising: samples, documents and sources."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from splitft.common.text import first_few
from splitft.data import columns as col
from splitft.data.formats import ALPACA, SHAREGPT, convert, pair_advice
from splitft.data.rows import Indices
from splitft.data.sources import Sources, read_eval_sources, read_sources
from splitft.data.table import Table
from splitft.errors import DataError
from splitft.job.data import DataSettings
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
    dropped_blank: int  # rows left out because their text is empty
    dropped_without: int  # rows left out because their text is in other columns
    notes: tuple[str, ...]  # what was converted, and what was left out, for people to see
    marked: list[Any]  # values of redact.spans_column; empty where the job names none

    def __len__(self) -> int:
        return len(self.samples)


def read_records(job: DataSettings) -> Records:
    """Read and check all rows that a job names.

    Raises DataError for a file that cannot be read, a wrong column or value, or no rows at all.
    """
    return make_records(job, read_sources(job))


def read_eval_records(job: DataSettings) -> Records:
    """Read and check all rows of a job's own evaluation set; errors as of `read_records`."""
    return make_records(job, read_eval_sources(job), evaluation=True)


def make_records(job: DataSettings, sources: Sources, *, evaluation: bool = False) -> Records:
    """Check the rows of tables that were read; the errors are those of `read_records`.

    evaluation: rows of an evaluation set: each is a document, and they may lack the partition's column.
    """
    tables = [(number, table) for number, own in enumerate(sources.values()) for table in own]
    filled = [(number, table) for number, table in tables if len(table)]
    if not filled:
        raise DataError(f"no rows in {first_few([table.name for _, table in tables], 3)}")
    filled, notes = _converted(job, filled)
    kind = _common_kind(job, [table for _, table in filled])
    names = col.columns_of(kind, job.dataset_text_field)
    label_column = job.partition.column if reads_column(job.partition.method) else None
    document_of = "row" if evaluation else _document_of(job, sources)
    if evaluation and any(label_column not in table.columns for _, table in filled):
        label_column = None

    samples: list[Sample] = []
    documents: list[Hashable] = []
    owners: list[int] = []
    labels: list[str] = []
    marked: list[Any] = []
    places: list[str] = []
    without = 0
    # Keep the rows with text of every table that has rows
    for file, (number, table) in enumerate(filled):
        lacking = _lacking(table, kind, names)
        read = _samples(table, kind, names, set(lacking))
        keep = [row for row, sample in enumerate(read) if not col.is_blank(sample)]
        samples += [read[row] for row in keep]
        documents += [_document(table, document_of, file, row) for row in keep]
        owners += [number] * len(keep)
        places += [table.place(row) for row in keep]
        if elsewhere := [row for row in lacking if _has_text(table, row)]:
            without += len(elsewhere)
            notes.append(
                f"{table.name}: {len(elsewhere):,} rows have no {' and no '.join(map(repr, names))} and are "
                f"left out; the first is {table.unit} {table.lines[elsewhere[0]]}"
            )
        if job.redact.spans_column is not None:
            marks = col.require_column(table, job.redact.spans_column, "redact.spans_column")
            marked += [marks[row] for row in keep]
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
        dropped_blank=sum(len(table) for _, table in filled) - len(samples) - without,
        dropped_without=without,
        notes=tuple(notes),
        marked=marked,
    )


def _converted(
    job: DataSettings, tables: list[tuple[int, Table]]
) -> tuple[list[tuple[int, Table]], list[str]]:
    """Return the tables, their rows of a known kind, and a note for each way in which some were read."""
    files: dict[str, list[str]] = {}
    converted = []
    for number, table in tables:
        known, note = convert(table, job.dataset_text_field, _names_text(job))
        if note and job.redact.spans_column is not None:
            raise DataError(
                f"{table.name}: {note}, and redact.spans_column counts characters of the text: give these "
                "rows as text, or as prompt and completion"
            )
        converted.append((number, known))
        for text in filter(None, (table.note, note)):
            files.setdefault(text, []).append(table.name)
    return converted, [f"{first_few(names, 3)}: {text}" for text, names in files.items()]


def _names_text(job: DataSettings) -> bool:
    return "dataset_text_field" in job.model_fields_set


def _common_kind(job: DataSettings, tables: list[Table]) -> col.Kind:
    """Return the kind of the first table's rows. Raises DataError where it has none, or a table another."""
    first, text_field = tables[0], job.dataset_text_field
    kind = col.find_kind(first, text_field, _names_text(job))
    if kind is None:
        raise DataError(
            f"{first.name}: no column {text_field!r}, and neither prompt + completion nor messages; "
            f"{col.list_columns(first)}; {pair_advice(first)}set dataset_text_field to the "
            f"column that holds the text{col.likely_text(first)}"
        )
    names = col.columns_of(kind, text_field)
    for table in tables[1:]:
        missing = [name for name in names if name not in table.columns]
        if missing:
            raise DataError(
                f"{table.name}: no column {missing[0]!r}, which the first file ({first.name}) has; "
                f"{col.describe_columns(missing[0], table)}; the rows of a job are all of one kind: rename "
                "the column, or leave the file out"
            )
    return kind


def _lacking(table: Table, kind: col.Kind, names: Sequence[str]) -> list[int]:
    """Return the rows that have no value in any of the columns.

    Raises DataError where some are rows of another kind: a part of the file would go unseen.
    """
    lacking = [row for row in range(len(table)) if all(table.columns[name][row] is None for name in names)]
    others = [needed for other, needed in col.COLUMNS.items() if other != kind]
    for needed in (*others, ALPACA, (SHAREGPT,), ("text",)):
        if not lacking or not table.columns.keys() >= set(needed):
            continue
        rows = [row for row in lacking if all(table.columns[name][row] for name in needed)]
        if rows:
            raise DataError(
                f"{table.name}: {len(rows):,} of {len(table):,} rows have {' + '.join(needed)} and no "
                f"{' + '.join(names)} (the first is {table.unit} {table.lines[rows[0]]}); the rows of a job "
                "are all of one kind: give them the same columns, or put each kind into a job of its own"
            )
    return lacking


def _has_text(table: Table, row: int) -> bool:
    return any(isinstance(values[row], str) and values[row].strip() for values in table.columns.values())


def _samples(table: Table, kind: col.Kind, names: Sequence[str], lacking: Collection[int]) -> list[Sample]:
    """Return the checked sample of each row; a row that lacks the columns gets an empty one."""
    first = next((value for value in table.columns[names[0]] if value is not None), "")
    plain = kind == "text" or (kind == "prompt_completion" and isinstance(first, str))
    check = col.check_text if plain else col.check_messages
    return [
        ("",) if row in lacking else tuple(check(table, name, row) for name in names)
        for row in range(len(table))
    ]


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
