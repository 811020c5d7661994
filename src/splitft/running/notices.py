"""Lines for a person beside the tables of a run."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape


def note(console: Console, text: str) -> None:
    """Print a fact that must not be missed."""
    console.print(f"[bold yellow]Note:[/] {escape(text)}")
