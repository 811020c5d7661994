"""What pydantic found wrong, told as a person wrote it: one line a problem, the key's path first."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from splitft.job.model import RULE, Job, PartitionConfig

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
        *choices, last = (describe_type(choice) for choice in schema["anyOf"])
        return f"{', '.join(choices)} or {last}"
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return "a list of " + describe_type(schema["items"], many=True)
    if kind not in _NOUNS:
        values = schema.get("additionalProperties")
        return "a mapping of names to " + describe_type(values, many=True) if values else "a mapping"
    bounds = [
        f"{sign} {_number(schema[word]).removesuffix('.0')}"
        for word, sign in _BOUNDS.items()
        if word in schema
    ]
    return " ".join([_NOUNS[kind][many], " and ".join(bounds)]).strip()


def problem_lines(error: ValidationError) -> list[str]:
    """One line for each problem of a job, in the order in which they were found."""
    schemas = field_schemas()
    lines: list[str] = []
    wrong: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        loc = tuple(str(part) for part in detail["loc"])
        key = ".".join(loc[:2] if loc[0] == "partition" else loc[:1])
        if detail["type"] == RULE:
            lines.append(f"{key}: {detail['msg']}")
        elif detail["type"] in ("extra_forbidden", "invalid_key"):
            lines.append(f"{key}: unknown key; {_nearest_key(key)}")
        elif detail["type"] == "missing":
            lines.append(f"{key}: required, but not given: {schemas[key].get('description', '')}")
        else:
            wrong.setdefault(key, []).append(detail)
            if len(wrong[key]) == 1:
                lines.append(key)  # a place in the order; its text needs all of the key's details
    return [line for key in lines for line in (_wrong_value(key, schemas, wrong) if key in wrong else [key])]


def field_schemas() -> dict[str, dict[str, Any]]:
    """JSON schema of every key, the partition's under dotted names."""
    schema = Job.model_json_schema()
    top: dict[str, dict[str, Any]] = schema["properties"]
    partition = schema["$defs"][PartitionConfig.__name__]["properties"]
    return top | {f"partition.{key}": value for key, value in partition.items()}


def _wrong_value(
    key: str, schemas: Mapping[str, dict[str, Any]], wrong: Mapping[str, list[ErrorDetails]]
) -> list[str]:
    """A value of the wrong type or out of range. Pydantic reports each branch of a union; we say it once."""
    schema, depth = schemas[key], len(key.split("."))
    lines = []
    for detail in wrong[key]:
        inner = detail["loc"][depth + 1 :]  # past the name of the union's branch
        if inner:
            place = f"[{inner[0]}]" if isinstance(inner[0], int) else f".{inner[0]}"
            lines.append(f"{key}{place}: {_must_be(_items(schema, inner[0]), detail['input'])}")
    return lines or [f"{key}: {_must_be(schema, wrong[key][0]['input'])}"]


def _items(schema: Mapping[str, Any], place: int | str) -> Mapping[str, Any]:
    word = "items" if isinstance(place, int) else "additionalProperties"
    return next((choice[word] for choice in schema.get("anyOf", [schema]) if word in choice), {})


def _must_be(schema: Mapping[str, Any], value: object) -> str:
    near = difflib.get_close_matches(value, schema.get("enum", []), n=1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]}?" if near else ""
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


def _nearest_key(key: str) -> str:
    name, inside = key.rpartition(".")[2], key.startswith("partition.")
    here, other = (PartitionConfig, Job) if inside else (Job, PartitionConfig)
    if name in other.model_fields:
        return f"{name} belongs at the top level" if inside else f"did you mean partition.{name}?"
    near = _nearest(name, here.model_fields)
    return f"did you mean {near}?" if near else "`splitft schema` lists every key"


def _nearest(name: str, names: Iterable[str]) -> str | None:
    name = name.lower().replace("-", "_")
    near = difflib.get_close_matches(name, names, n=1)
    if not near and len(name) >= 4:  # `batch_size`, `model`: part of a longer name
        near = [other for other in names if name in other]
    return near[0] if near else None
