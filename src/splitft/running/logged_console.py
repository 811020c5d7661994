"""A console that writes a log: what a command prints goes to both, or to the log alone."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.control import Control
from rich.table import Table
from rich.text import Text

from splitft.common.notices import Notice
from splitft.errors import SplitFTError
from splitft.running.event_log import EventLog, Format

OUTPUT = "output"  # event: a line that tells no other
ERROR = "error"  # event: the last one of a party that an error ends
WIDE = 1000  # columns of a log's line: none is wrapped


class LoggedConsole(Console):
    """Prints, and writes the same to a log. shown: False: to the log alone."""

    def __init__(self, log: EventLog, *, shown: bool) -> None:
        super().__init__(**({} if shown else {"force_terminal": False, "width": WIDE}))  # type: ignore[arg-type]
        self._log, self._shown = log, shown

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects, with the options of rich's `Console`."""
        for item in objects:
            for notice in _notices(item, markup=options.get("markup") is not False):
                self._log.write(notice)
        if self._shown:
            super().print(*objects, **options)


@contextmanager
def log_console(format_: Format | None, file: Path | None) -> Iterator[Console]:
    """Return the console of a command, and end its log with the error that ends it, if there is one.

    format_: of the log; None: a display on a terminal, and elsewhere the log as text. file: also write the
    log here. Raises OutputError where the file cannot be opened, and SystemExit where a stated format has the
    error as its last line.
    """
    on_terminal = Console().is_terminal
    shown = on_terminal and format_ is None
    if shown and file is None:
        yield Console()
        return
    log = EventLog(format_ or "text", None if shown else sys.stdout, file)
    try:
        yield LoggedConsole(log, shown=shown)
    except SplitFTError as error:
        log.write(Notice(str(error), ERROR, "error", exit_code=error.exit_code))
        if format_ is None:
            raise
        raise SystemExit(error.exit_code) from None
    finally:
        log.close()


def _notices(item: object, *, markup: bool) -> Iterator[Notice]:
    """Yield the events that one printed object tells; a table's rows are one each."""
    if isinstance(item, Control):
        return
    if isinstance(item, Notice):
        yield item
    elif isinstance(item, str | Text):
        text = item.plain if isinstance(item, Text) else Text.from_markup(item).plain if markup else item
        if text.strip():
            yield Notice(text, OUTPUT)
    elif isinstance(item, Table):
        yield from _rows(item)
    else:
        page = io.StringIO()
        canvas = Console(file=page, width=WIDE)
        canvas.print(item)
        yield from (Notice(line, OUTPUT) for line in page.getvalue().splitlines() if line.strip())


def _rows(table: Table) -> Iterator[Notice]:
    headings = [_plain(column.header) for column in table.columns]
    event = _name(_plain(table.title or OUTPUT).partition(":")[0])
    for row in zip(*(column.cells for column in table.columns), strict=True):
        cells = [_plain(cell) for cell in row]
        if any(headings):
            named = dict(zip(headings, cells, strict=True))
            text = "  ".join(f"{heading} {cell}" for heading, cell in named.items())
        else:
            named, text = {cells[0]: "  ".join(cells[1:])}, "  ".join(cells)
        fields: dict[str, Any] = {_name(heading): cell for heading, cell in named.items()}
        yield Notice(text, event, **fields)


def _plain(cell: object) -> str:
    text = cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
    return " ".join(text.split())


def _name(text: str) -> str:
    """Return a heading as a name: letters, digits and underscores."""
    return "_".join("".join(c if c.isalnum() else " " for c in text).split()) or "row"
