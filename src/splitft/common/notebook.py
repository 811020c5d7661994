"""Output in notebooks: a console whose waiting lines need no widgets, and one that is written over."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

SECONDS_BETWEEN = 0.2  # from one change of a line to the next


class NotebookLine:
    """A line in a cell's output that is written over, and gone at the end."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._handle: Any = display(HTML(""), display_id=True)
        self._last = 0.0

    def show(self, text: str, share: float | None = None) -> None:
        """Write the line, at most so often; share: what is done, shown as a bar before the text."""
        if time.monotonic() - self._last > SECONDS_BETWEEN:
            self._last = time.monotonic()
            bar = "" if share is None else f"<progress value='{share:.4f}' max='1'></progress> "
            self._handle.update(self._html(f"{bar}<code>{html.escape(text)}</code>"))

    def clear(self) -> None:
        """Take the line away."""
        self._handle.update(self._html(""))


class NotebookConsole(Console):
    """A console whose `status` is a line that is gone at the end; rich's own needs ipywidgets."""

    @contextmanager
    def status(self, status: Any, **options: Any) -> Iterator[None]:  # type: ignore[override]
        """Show a text while something takes its time."""
        line = NotebookLine()
        line.show(f"{status} …")
        try:
            yield
        finally:
            line.clear()


def make_console() -> Console:
    """Return a console for this process: a terminal's, a file's or a notebook's."""
    console = Console()
    return NotebookConsole() if console.is_jupyter else console
