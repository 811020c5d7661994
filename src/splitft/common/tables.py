"""Tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def make_table(title: str, *headings: str, left: int = 1, **options: Any) -> Table:
    """Return an empty table; the first `left` columns are text, the others figures.

    options: More settings of rich's table. Headings are plain text.
    """
    table = Table(
        title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False, **options
    )
    for place, heading in enumerate(headings):
        table.add_column(Text(heading), justify="left" if place < left else "right")
    return table
