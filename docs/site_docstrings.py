"""Extension of griffe: parameters of this project's docstrings, one a line, become a list on the site.

Without it, lines `name: text` would flow into one paragraph. Names are those of the function or the class.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

LINE = re.compile(r"^(?P<names>\w+(?:, \w+)*): (?P<text>.+)$")


class ParametersAsList(griffe.Extension):
    """Rewrites docstrings of functions and classes."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Of a function: its parameters are known."""
        _rewrite(func, {parameter.name.lstrip("*") for parameter in func.parameters})

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Of a class: its attributes, and the parameters of its constructor."""
        _rewrite(cls, {*cls.members, *(parameter.name for parameter in cls.parameters)})


def _rewrite(thing: griffe.Object, known: set[str]) -> None:
    """Make list items of the lines that begin with known names; lines that follow belong to the item."""
    if thing.docstring is None:
        return
    lines: list[str] = []
    in_list = False
    for line in thing.docstring.value.splitlines():
        found = LINE.match(line)
        if found and set(found["names"].split(", ")) <= known:
            names = ", ".join(f"`{name}`" for name in found["names"].split(", "))
            lines += ([] if in_list else [""]) + [f"- {names}: {found['text']}"]
            in_list = True
        elif in_list and line.strip():
            lines.append(f"    {line.strip()}")
        else:
            lines.append(line)
            in_list = False
    thing.docstring.value = "\n".join(lines)
