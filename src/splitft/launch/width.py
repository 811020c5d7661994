"""Texts of the command line in the width of the terminal. Imports nothing heavy."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from splitft.launch.arguments import check_no_key

Function = TypeVar("Function", bound=Callable[..., Any])
NARROW = 80  # columns, below which frames leave no room for words
_LEAST = 40  # columns of a description beside its name


def columns() -> int:
    """Return the columns of the terminal, or COLUMNS; a pipe has many."""
    return shutil.get_terminal_size((1000, 24)).columns


def listed(descriptions: Mapping[str, str]) -> Iterator[str]:
    """Yield lines of {name: description}: side by side or, in a narrow terminal, one below the other."""
    indent = max(map(len, descriptions), default=0) + 2
    beside = columns() - indent >= _LEAST
    for name, description in descriptions.items():
        first, rest = (f"{name:{indent}}", " " * indent) if beside else ("  ", "  ")
        if not beside:
            yield name
        yield from textwrap.wrap(description, columns(), initial_indent=first, subsequent_indent=rest)


class FittingCommand(TyperCommand):
    """A command whose help has no frames in a narrow terminal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        hints = get_type_hints(self.callback, include_extras=True)
        for param in self.params:  # click 8.5 clears the help of typer's arguments
            for found in getattr(hints.get(param.name or ""), "__metadata__", ()):
                param.help = getattr(param, "help", None) or found.help

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raise JobError where a key of the job is written as an option."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # click's, which newer typer versions carry inside themselves
            if type(error).__name__ == "NoSuchOption" and any(p.name == "overrides" for p in self.params):
                check_no_key(getattr(error, "option_name", ""))
            raise

    def format_arguments(self, ctx: Any, formatter: Any) -> None:
        """Write nothing where click 8.5 lists the arguments, since typer does."""

    def get_help(
        self, ctx: Any
    ) -> str:  # click's Context, which newer typer versions carry inside themselves
        if columns() >= NARROW:
            return super().get_help(ctx)
        self.rich_markup_mode = None
        return super().get_help(ctx).replace("\\[", "[")  # typer's escape for rich


class FittingApp(typer.Typer):
    """A typer app of such commands."""

    def command(self, *args: Any, **options: Any) -> Callable[[Function], Function]:
        return super().command(*args, **{"cls": FittingCommand, **options})
