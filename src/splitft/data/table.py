"""One data file as columns: .txt, .jsonl, .json, .csv, .tsv and .parquet.

Text formats are read here and not through `datasets`, because that turns a csv cell `NA` into no value, gives
every message the keys of all others, and cannot name the line of a broken row.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitft.common.quiet import quiet_datasets
from splitft.common.text import one_line
from splitft.errors import DataError

DELIMITERS = (",", ";", "\t", "|")  # between the cells of a csv file; Excel takes ; in many countries
SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".tar")


@dataclass(frozen=True)
class Table:
    """Columns of one file, all of one length."""

    name: str  # the file, or the data set
    columns: dict[str, list[Any]]
    lines: list[int]  # of each row's start, or the row's number where a file has no lines
    unit: str = "line"  # of `lines`
    other_columns: tuple[str, ...] = ()  # columns that exist but were not read
    note: str = ""  # what a person may not expect of the way it was read

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """Where a row stands, for messages."""
        return f"{self.name}, {self.unit} {self.lines[row]}"

    def error(self, row: int, text: str) -> DataError:
        """An error that names the place of a row."""
        return DataError(f"{self.place(row)}: {text}")


def read_table(
    path: Path,
    text_field: str = "text",
    sample_by: str = "paragraph",
    wanted: Collection[str] | None = None,
) -> Table:
    """Read one file by its suffix.

    text_field: name of the only column of a .txt file. sample_by: one row of a .txt file: line, paragraph
    (split at blank lines) or document. wanted: columns to decode of a parquet file; default all. Raises
    DataError where the file is missing, unreadable, malformed (with the line where known) or of an unknown
    format.
    """
    suffix = check_file(path)
    if suffix == ".parquet":
        return _read_parquet(path, wanted)
    content = _read_text(path)
    if suffix == ".txt":
        samples = list(split_text(content, sample_by))
        return Table(str(path), {text_field: [text for _, text in samples]}, [line for line, _ in samples])
    if suffix in (".csv", ".tsv"):
        return _read_csv(path, content, "\t" if suffix == ".tsv" else _delimiter(content))
    return _read_json(path, content)


def check_file(path: Path) -> str:
    """Return the suffix of a file. Raises DataError where there is none, or none of a known format."""
    suffix = path.suffix.lower()
    if not exists(path):
        raise DataError(f"{path}: no such file (relative paths start at {Path.cwd()})")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give a file or a pattern such as {path}/*.txt")
    if suffix in PACKED:
        raise DataError(f"{path}: a packed file; unpack it, and name the file that comes out")
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown format {suffix!r}; use one of {', '.join(SUFFIXES)}")
    return suffix


def exists(path: Path) -> bool:
    """Whether a file can be seen; False also for names that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def split_text(content: str, sample_by: str) -> Iterator[tuple[int, str]]:
    """Yield (first line's number, text) of each non-blank line, paragraph, or the whole document."""
    content = content.replace("\r\n", "\n").replace("\r", "\n")
    if sample_by == "document":
        if content.strip():
            yield 1, content.strip("\n")
        return
    paragraph: list[str] = []
    number = 0
    for number, line in enumerate(content.split("\n"), start=1):  # splitlines cuts at more characters
        if line.strip():
            if sample_by == "line":
                yield number, line
            else:
                paragraph.append(line)
        elif paragraph:
            yield number - len(paragraph), "\n".join(paragraph)
            paragraph = []
    if paragraph:
        yield number - len(paragraph) + 1, "\n".join(paragraph)


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as some Windows programs write
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise DataError(f"{path}: no text, but binary data; export them as text, csv or jsonl") from error
        line = data[: error.start].count(b"\n") + 1
        how = " (in Excel: save as CSV UTF-8)" if path.suffix.lower() == ".csv" else ""
        raise DataError(f"{path}, line {line}: not UTF-8 text; convert the file to UTF-8{how}") from error


def _delimiter(content: str) -> str:
    """Return the character between the cells of a csv file's header: a comma, or what else parts it."""
    header = content.split("\n", 1)[0]
    if header.startswith("sep=") and len(header) > 4:
        return header[4]
    cells = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in DELIMITERS}
    return "," if cells[","] > 1 else max(DELIMITERS, key=lambda mark: cells[mark])


def _read_csv(path: Path, content: str, delimiter: str) -> Table:
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses texts above 128 KiB
    try:
        reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
        if content.startswith("sep="):  # Excel's own first line
            next(reader)
        header = next(reader, [])
        named = [name for name in header if name]  # a spreadsheet may have empty columns beside the table
        if len(set(named)) < len(named):
            names = ", ".join(header)
            raise DataError(f"{path}, line {reader.line_num}: two columns have the same name: {names}")
        columns: dict[str, list[Any]] = {name: [] for name in named}
        lines = []
        start = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                hint = "; texts that hold a comma need quotes around them" if len(row) > len(header) else ""
                raise DataError(
                    f"{path}, line {start}: {len(row)} cells, but the header has {len(header)}{hint}"
                )
            if row:
                lines.append(start)
                for name, cell in zip(header, row, strict=True):
                    if name:
                        columns[name].append(cell)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: malformed csv: {error}") from error
    finally:
        csv.field_size_limit(limit)
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    note = "" if delimiter == usual else f"read with {delimiter!r} between cells"
    return Table(str(path), columns, lines, note=note)


def _read_json(path: Path, content: str) -> Table:
    if content.lstrip().startswith("["):
        unit, rows = "item", list(enumerate(_parse(path, content, 1), start=1))
    elif content.lstrip().startswith("{\n") and path.suffix.lower() == ".json":
        whole = _parse(path, content, 1)
        lists = [name for name, value in whole.items() if isinstance(value, list)]
        where = f"; its rows seem to be those of {lists[0]!r}: write that list alone" if lists else ""
        raise DataError(f"{path}: one object, not a list of rows or one row a line{where}")
    else:
        lines = enumerate(content.split("\n"), start=1)  # not splitlines: JSON strings may hold U+2028
        unit, rows = "line", [(n, _parse(path, line, n)) for n, line in lines if line.strip()]
    for number, row in rows:
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise DataError(f"{path}, {unit} {number}: expected an object with named columns, found {kind}")
    names = dict.fromkeys(name for _, row in rows for name in row)
    columns = {name: [row.get(name) for _, row in rows] for name in names}
    return Table(str(path), columns, [number for number, _ in rows], unit)


def _parse(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path}, line {line + error.lineno - 1}, column {error.colno}"
        raise DataError(f"{place}: not valid JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise DataError(f"{path}, line {line}: JSON that cannot be read: {one_line(error)}") from error


def _read_parquet(path: Path, wanted: Collection[str] | None) -> Table:
    import datasets

    with tempfile.TemporaryDirectory(prefix="splitft-") as cache, quiet_datasets():
        try:
            data = datasets.Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
        except Exception as error:  # pyarrow and datasets have no common base for what a broken file raises
            cause = one_line(error.__cause__ or error)
            raise DataError(f"{path}: not a readable parquet file: {cause}") from error
        return table_of(str(path), data, wanted)


def table_of(name: str, data: Any, wanted: Collection[str] | None) -> Table:
    """The wanted columns of a `datasets.Dataset` as Python values; the others may be images or audio."""
    names = [column for column in data.column_names if wanted is None or column in wanted]
    others = tuple(column for column in data.column_names if column not in names)
    columns = {column: data[column][:] for column in names}
    return Table(name, columns, list(range(1, len(data) + 1)), "row", others)
