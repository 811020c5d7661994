"""Groups of keys within a job: where one key's path ends and a path inside its value begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

NAME = "NAME"  # stands for the names that a person gives: device_profiles.NAME.flops


def nested_models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Every group of a model, by its dotted path: {"partition": ..., "device_profiles.NAME": ...}."""
    found: dict[str, type[BaseModel]] = {}
    for key, field in model.model_fields.items():
        kind: Any = field.annotation
        if get_origin(kind) is dict:
            key, kind = f"{key}.{NAME}", get_args(kind)[1]
        # Python 3.10 takes list[str] for a type.
        if get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel):
            found[key] = kind
    return found


def key_path(loc: Sequence[int | str], model: type[BaseModel]) -> tuple[tuple[str, ...], str]:
    """The part of a pydantic location that names a key, and the group in which the key stands.

    The rest of the location lies inside the key's value. The group is "partition", "device_profiles.NAME", or
    "" for the top level, where the groups themselves stand, too.
    """
    group = next((group for group in nested_models(model) if group.split(".")[0] == loc[0]), "")
    depth = len(group.split(".")) + 1 if group else 1
    path = tuple(str(part) for part in loc[:depth])
    return path, group if len(path) == depth else ""


def given_values(data: Mapping[str, Any], model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Dotted keys with the value given or else the default, less those of a group that is no mapping."""
    groups = {key: group for key, group in nested_models(model).items() if NAME not in key}
    for group, kind in {"": model, **groups}.items():
        given = data.get(group, {}) if group else data
        given = dict(given) if isinstance(given, BaseModel) else given
        for key, field in kind.model_fields.items() if isinstance(given, Mapping) else ():
            value = given.get(key, field.get_default(call_default_factory=True))
            yield f"{group}.{key}".lstrip("."), value
