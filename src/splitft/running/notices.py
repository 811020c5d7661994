"""Lines for a person beside the tables of a run."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape


def note(console: Console, text: str) -> None:
    """Print a fact that must not be missed."""
    console.print(f"[bold yellow]Note:[/] {escape(text)}")


class Notices:
    """Facts that a person must know of a run: each is printed at once, and kept for the summary."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        note(self.console, text)
        self.texts.append(text)
