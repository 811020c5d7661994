"""Tables for the terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

_WIDE = 10_000  # columns in which nothing wraps


class FittingTable(Table):
    """A table that becomes tight and then a list, row by row, where a terminal is too narrow for its words.

    Rich would break words and figures, or leave columns out.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._measured(console, options).maximum > options.max_width:
            self.columns = [_narrowest(c) if c.justify == "right" else c for c in self.columns]
        if self._measured(console, options).minimum > options.max_width:
            self.padding = 0  # a column's border stays between two of them
        if self._measured(console, options).minimum <= options.max_width or not self.row_count:
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield Text(str(self.title), style="italic")
        headings = [" ".join(str(column.header).split()) for column in self.columns]
        cells = [list(column.cells) for column in self.columns]
        for row in zip(*cells, strict=True):
            # The first column names the row.
            yield Text.assemble((f"{headings[0]} " if headings[0] else "", ""), (str(row[0]), "bold"))
            rest = Table.grid(padding=(0, 2))
            rest.add_column(no_wrap=True)
            rest.add_column(overflow="fold")
            for heading, cell in zip(headings[1:], row[1:], strict=True):
                rest.add_row(heading, cell)
            yield Padding(rest, (0, 0, 0, 2), expand=False)
        yield Text()

    def _measured(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options.update(width=_WIDE), self)


def _narrowest(column: Column) -> Column:
    """Return a column of figures that breaks its heading alone."""
    words = [*str(column.header).split(), *map(str, column.cells)]
    return replace(column, width=max(map(cell_len, words)))


def make_table(title: str, *headings: str, left: int = 1, **options: Any) -> Table:
    """Return an empty table; the first `left` columns are text, the others figures.

    options: More settings of rich's table. Headings are plain text.
    """
    table = FittingTable(
        title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False, **options
    )
    for place, heading in enumerate(headings):
        table.add_column(Text(heading), justify="left" if place < left else "right")
    return table
