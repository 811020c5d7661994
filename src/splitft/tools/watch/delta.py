"""What has changed between two states of a run, so that a page that has the first gets to the second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GROWING = ("rounds", "decisions")  # lists that get longer at their end, and seldom change before it


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return {set: {key: value}, more: {key: items}, clients: {number: row}} with what is not empty.

    set: values in the place of those that a page has. more: items at the end of a list. clients: rows that
    are new or others.
    """
    found: dict[str, dict[str, Any]] = {"set": {}, "more": {}, "clients": {}}
    for key, value in after.items():
        old = before.get(key)
        if key in GROWING and isinstance(old, list) and value[: len(old)] == old:
            if len(value) > len(old):
                found["more"][key] = value[len(old) :]
        elif key == "clients":
            rows = old if isinstance(old, Mapping) else {}
            found["clients"] = {place: row for place, row in value.items() if rows.get(place) != row}
        elif old != value:
            found["set"][key] = value
    return {key: value for key, value in found.items() if value}
