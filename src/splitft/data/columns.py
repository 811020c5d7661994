"""Kinds of rows: text, prompt + completion, or messages, with the column names that TRL uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from splitft.common.text import nearest
from splitft.data.table import Table
from splitft.errors import DataError

Kind = Literal["text", "prompt_completion", "messages"]
Message = dict[str, Any]
LONGEST_NAME = 40  # letters of a column's name; what is longer is a text
SCALARS = (str, int, float, bool)
# What the kinds of rows other than text are read from, in the order in which TRL looks for them.
COLUMNS: dict[Kind, tuple[str, ...]] = {
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
}


def find_kind(table: Table, text_field: str, explicit: bool = False) -> Kind | None:
    """Decide by the columns: prompt + completion, else messages, else the text column (TRL's order).

    explicit: the job sets dataset_text_field itself: then that column comes first. None: none of them.
    """
    if explicit and text_field in table.columns:
        return "text"
    for kind, needed in COLUMNS.items():
        if table.columns.keys() >= set(needed):
            return kind
    return "text" if text_field in table.columns else None


def columns_of(kind: Kind, text_field: str) -> tuple[str, ...]:
    """Return the columns that a kind of rows is read from."""
    return COLUMNS.get(kind, (text_field,))


def require_column(table: Table, column: str, key: str) -> list[Any]:
    """Values of a column that the job's `key` names. Raises DataError where there is none."""
    if column not in table.columns:
        raise DataError(f"{table.name}: no column {column!r} ({key}); {describe_columns(column, table)}")
    return table.columns[column]


def describe_columns(wanted: str, table: Table) -> str:
    """The columns there are, and the one nearest to what was wanted."""
    return list_columns(table) + nearest(wanted, [*table.columns, *table.other_columns], "; ")


def list_columns(table: Table) -> str:
    """The columns there are."""
    names = ", ".join([*table.columns, *table.other_columns])
    return f"columns: {names}" if names else "it has no columns"


def likely_text(table: Table) -> str:
    """Return advice on dataset_text_field: the column with the longest texts in the first rows."""
    sizes = {
        name: sum(len(value) for value in values[:20] if isinstance(value, str))
        for name, values in table.columns.items()
    }
    name = max(sizes, key=lambda name: sizes[name], default="")
    if len(name) > LONGEST_NAME:
        return "; is the first line a row? Put a line with the names of the columns above it"
    return f": dataset_text_field={name}" if sizes.get(name) else ""


def check_text(table: Table, column: str, row: int) -> str:
    """The text of a row; a missing value is an empty text. Raises DataError where the value is no text."""
    value = table.columns[column][row]
    if value is not None and not isinstance(value, str):
        raise table.error(row, f"column {column!r} holds {_kind_of(value)}, not text")
    return _sound(value or "", table, row)


def check_messages(table: Table, column: str, row: int) -> list[Message]:
    """The messages of a row, without keys that have no value.

    Raises DataError where they are no list of objects with role and content.
    """
    value = as_list(table.columns[column][row])
    if not isinstance(value, list):
        raise table.error(row, f"column {column!r} holds {_kind_of(value)}, not a list of messages")
    messages = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise table.error(row, f"a message in {column!r} is not an object with role and content")
        messages.append({key: part for key, part in message.items() if part is not None})
        if "content" not in messages[-1] and "tool_calls" not in messages[-1]:
            raise table.error(row, f"a message in {column!r} has no content")
        if isinstance(message.get("content"), str):
            _sound(message["content"], table, row)
    return messages


def as_list(value: Any) -> Any:
    """Return messages as a list; any other value as it is."""
    # A sequence of structures comes out of some parquet files as a structure of sequences.
    if isinstance(value, dict) and all(isinstance(part, list) for part in value.values()):
        return [dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=False)]
    return value


def check_labels(table: Table, column: str, key: str) -> list[str]:
    """Values of a label column as texts. Raises DataError without it, or where a row has no single value."""
    values = require_column(table, column, key)
    for row, value in enumerate(values):
        if not isinstance(value, SCALARS):
            raise table.error(row, f"column {column!r} ({key}) holds {_kind_of(value)}, not a label")
    return [str(value) for value in values]


def is_blank(sample: Sequence[Any]) -> bool:
    """Whether nothing can be learned from a sample: all of its parts are empty or white space."""
    return not any(part.strip() if isinstance(part, str) else part for part in sample)


def _sound(text: str, table: Table, row: int) -> str:
    """Refuse half a surrogate pair, which JSON can spell and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise table.error(row, f"broken Unicode at character {error.start + 1}") from error
    return text


def _kind_of(value: Any) -> str:
    return "no value" if value is None else f"a value of type {type(value).__name__}"
