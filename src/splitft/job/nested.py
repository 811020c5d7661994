"""Groups of keys within a job: where one key's path ends and a path inside its value begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

NAME = "NAME"  # stands for the names that a person gives: device_profiles.NAME.flops


def nested_models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Every group of a model, by its dotted path: {"partition": ..., "device_profiles.NAME": ...}."""
    found: dict[str, type[BaseModel]] = {}
    for key, field in model.model_fields.items():
        group = _model_in(field.annotation)
        if group is not None:
            found[key] = group
        elif get_origin(field.annotation) is dict:
            group = _model_in(get_args(field.annotation)[1])
            if group is not None:
                found[f"{key}.{NAME}"] = group
    return found


def key_path(loc: Sequence[int | str], model: type[BaseModel]) -> tuple[str, ...]:
    """The part of a pydantic location that names a key; what follows it lies inside the key's value."""
    depth = 1
    for group in nested_models(model):
        parts = group.split(".")
        if loc[0] == parts[0]:
            depth = len(parts) + 1
    return tuple(str(part) for part in loc[:depth])


def home_of(path: Sequence[str], model: type[BaseModel]) -> str:
    """The group in which a key stands: "partition", "device_profiles.NAME", or "" for the top level."""
    for group in nested_models(model):
        parts = group.split(".")
        if len(path) == len(parts) + 1 and path[0] == parts[0]:
            return group
    return ""


def flat_fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Every key with a name of its own, dotted: `rounds`, `partition.alpha`; not those under NAME."""
    groups = nested_models(model)
    for key, field in model.model_fields.items():
        if key in groups:
            yield from ((f"{key}.{inner}", found) for inner, found in groups[key].model_fields.items())
        else:
            yield key, field


def given_values(data: Mapping[str, Any], model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Dotted keys with the value given or else the default; a group that is no mapping is left out."""
    for key, field in flat_fields(model):
        outer, _, inner = key.rpartition(".")
        holder = data.get(outer, {}) if outer else data
        if isinstance(holder, BaseModel):
            yield key, getattr(holder, inner, None)
        elif isinstance(holder, Mapping):
            yield key, holder.get(inner, field.get_default(call_default_factory=True))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
