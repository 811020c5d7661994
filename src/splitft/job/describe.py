"""The values that a JSON schema allows, and a wrong one beside them, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitft.common.text import nearest

_NOUNS = {
    "integer": ("an integer", "integers"),
    "number": ("a number", "numbers"),
    "string": ("a string", "strings"),
    "boolean": ("true or false", "true or false"),
    "null": ("null", "null"),
}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def describe_type(schema: Mapping[str, Any], many: bool = False) -> str:
    """Say in words what a JSON schema allows: `an integer ≥ 1 or a list of integers ≥ 1`."""
    if "anyOf" in schema:
        *choices, last = (describe_type(choice, many) for choice in schema["anyOf"])
        return f"{', '.join(choices)} or {last}"
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type")
    if kind == "array":
        return ("lists of " if many else "a list of ") + describe_type(schema["items"], many=True)
    if kind not in _NOUNS:
        values, mapping = schema.get("additionalProperties"), "mappings" if many else "a mapping"
        return f"{mapping} of names to {describe_type(values, many=True)}" if values else mapping
    bounds = [
        f"{sign} {_number(schema[word]).removesuffix('.0')}"
        for word, sign in _BOUNDS.items()
        if word in schema
    ]
    return " ".join([_NOUNS[kind][many], " and ".join(bounds)]).strip()


def must_be(schema: Mapping[str, Any], value: object) -> str:
    """Say what a value must be, what it is instead, and what may have been meant."""
    names = [name for choice in schema.get("anyOf", [schema]) for name in choice.get("enum", ())]
    hint = nearest(value, names, "; ") if isinstance(value, str) else ""
    return f"must be {describe_type(schema)}, not {_shown(value)}{hint}"


def _shown(value: object) -> str:
    if value is None:
        return "null (no value)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str):
        return "empty" if not value else f"the string {value!r}" if len(value) <= 60 else "a long text"
    if isinstance(value, list | dict):
        kind = "list" if isinstance(value, list) else "mapping"
        return f"a {kind}" if value else f"an empty {kind}"
    return f"a Python {type(value).__name__}"


def _number(value: int | float) -> str:
    if isinstance(value, int) and abs(value) >= 10**30:  # Python refuses to write out thousands of digits
        return "a huge integer"
    return repr(value)
