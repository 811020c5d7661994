"""Pydantic's errors in the words of a job file: one line a problem, the key's path first."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from splitft.errors import JobError
from splitft.job.describe import must_be
from splitft.job.foreign import FOREIGN
from splitft.job.nested import key_path, nested_models
from splitft.job.rules import RULE

_NAME = {"type": "string"}  # what a key of a mapping must be
OLD_VALUES = {  # what stands in place of a value that a key took once
    ("lora_r_cut_side", "none"): "write lora_r_cut: null",
    ("micro_batches", "1"): "write off",
    ("server_batch_tokens", "0"): "write off",
}
# Keys of earlier versions: why each is gone, and what to do instead.
REMOVED = {
    "codec_budget": "removed; delete this key: `splitft plan JOB --codecs` tries all codecs",
    "torch_compile": "removed, since no measurement showed compiled blocks to pay; delete this key",
    "use_liger_kernel": "removed, since Liger's kernels were never measured; delete this key",
}


def job_error(name: str, problems: Sequence[str], then: str = "") -> JobError:
    """Return the error that lists problems below their number. then: what follows the number."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return JobError("\n  ".join([f"{name}: {count}{then}", *problems]))


def problem_lines(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each problem of a job, in the order in which they were found. model: the job's class."""
    schemas = field_schemas(model)
    lines: list[str] = []
    wrong: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        path, home = key_path(loc, model)
        key = ".".join(path)
        if detail["type"] == RULE:
            lines.append(f"{key}: {detail['msg']}")
        elif detail["type"] in ("extra_forbidden", "invalid_key"):
            told = REMOVED.get(key) or FOREIGN.get(key)
            lines.append(f"{key}: {told or f'unknown key; {_nearest_key(path[-1], home, model)}'}")
        elif detail["type"] == "missing":
            lines.append(f"{key}: required, but not given: {schemas[key].get('description', '')}")
        else:
            wrong.setdefault(key, []).append(detail)
            if len(wrong[key]) == 1:
                lines.append(key)  # a place in the order; its text needs all of the key's details
    return [
        line
        for key in lines
        for line in (_wrong_values(wrong[key], schemas, model) if key in wrong else [key])
    ]


@cache
def field_schemas(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """JSON schema of every key, dotted within its group: `rounds`, `partition.alpha`."""
    schema = model.model_json_schema()
    found: dict[str, dict[str, Any]] = dict(schema["properties"])
    for group, kind in nested_models(model).items():
        inner = schema["$defs"][kind.__name__]["properties"]
        found |= {f"{group}.{key}": value for key, value in inner.items()}
    return found


def _wrong_values(
    details: Sequence[ErrorDetails], schemas: Mapping[str, dict[str, Any]], model: type[BaseModel]
) -> list[str]:
    """A value of the wrong type or out of range. Pydantic reports each branch of a union; we say it once."""
    told: dict[str, str] = {}
    for detail in details:
        loc, names = detail["loc"], detail["loc"][-1] == "[key]"  # a wrong key of a mapping, not its value
        loc = loc[:-2] if names else loc
        path, home = key_path(loc, model)
        # No schema stands for device_profiles.laptop itself: a mapping.
        place, schema = _inside(
            schemas.get(f"{home}.{path[-1]}" if home else ".".join(path), {}), loc[len(path) :]
        )
        must = must_be(_NAME if names else schema, detail["input"])
        if instead := OLD_VALUES.get((".".join(path), str(detail["input"]))):
            must = f"{must}; {instead}"
        told.setdefault(".".join(path) + place, f"every name in it {must}" if names else must)
    # A branch of a union that got further knows better what was meant.
    outer = {a for a in told for b in told if b.startswith((f"{a}.", f"{a}["))}
    return [f"{place}: {problem}" for place, problem in told.items() if place not in outer]


def _inside(schema: Mapping[str, Any], loc: Sequence[int | str]) -> tuple[str, Mapping[str, Any]]:
    """Follow a location into a value; return the place as a person writes it, and what may stand there."""
    place = ""
    while loc:
        choices = [choice for choice in schema.get("anyOf", [schema]) if choice.get("type") != "null"]
        if len(choices) > 1:  # the name of the union's branch
            loc = loc[1:]
        if loc:
            word = "items" if isinstance(loc[0], int) else "additionalProperties"
            place += f"[{loc[0]}]" if isinstance(loc[0], int) else f".{loc[0]}"
            schema, loc = next((choice[word] for choice in choices if word in choice), {}), loc[1:]
    return place, schema


def _nearest_key(name: str, home: str, model: type[BaseModel]) -> str:
    """Where an unknown key of a group may belong: another group, or a name that is written much like it."""
    groups: dict[str, type[BaseModel]] = {"": model, **nested_models(model)}
    elsewhere = {group: kind.model_fields for group, kind in groups.items() if group != home}
    if home and name in model.model_fields:
        return f"{name} belongs at the top level"
    for group, fields in elsewhere.items():
        if name in fields:
            return f"did you mean {group}.{name}?"
    near = _nearest(name, groups[home].model_fields)
    if near:
        return f"did you mean {near}?"
    for group, fields in elsewhere.items():
        close = difflib.get_close_matches(name, fields, n=1)
        if close:
            return f"did you mean {f'{group}.{close[0]}'.lstrip('.')}?"
    return "`splitft schema` lists every key"


def _nearest(name: str, names: Iterable[str]) -> str | None:
    name = name.lower().replace("-", "_")
    near = difflib.get_close_matches(name, names, n=1)
    if not near and len(name) >= 4:  # `batch_size`, `model`: part of a longer name
        near = [other for other in names if name in other]
    return near[0] if near else None
