"""The job as a server tells it to clients: the keys that are set, and those that a client need not know."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from splitft.common.text import plain
from splitft.errors import NetworkError
from splitft.job.algorithms import ServerOptimizerSettings
from splitft.job.nested import nested_models
from splitft.job.problems import problem_lines
from splitft.job.settings import DeviceSettings, RunSettings

J = TypeVar("J", bound=BaseModel)

# Keys that the server alone reads. A client of another version may pass over one that it does not know.
SERVER_KEYS = frozenset({
    *ServerOptimizerSettings.__annotations__, *DeviceSettings.__annotations__, "clients_per_round", "order",
    "robust_aggregation", "byzantine_clients", "eval_precision", "eval_clients", "server_batch_tokens",
    "cut_policy", "network", "replay_cohorts",
})  # fmt: skip
STATED = {"dataset_text_field"}  # a key that means more where it is stated, even with its default
# Keys that never leave the server.
OWN_KEYS = frozenset({"adapter_name_or_path", *RunSettings.model_fields})


def told_job(job: BaseModel) -> tuple[str, tuple[str, ...]]:
    """Return the keys of a job that are set, as JSON, and the names of those that a client need not know."""
    values = job.model_dump(mode="json")
    told = _set_values(job, values)
    told |= {name: values[name] for name in STATED & job.model_fields_set}
    # A default may follow from another key that is told: then it is told, too.
    read = type(job).model_validate_json(json.dumps(told)).model_dump(mode="json")
    told |= {name: value for name, value in values.items() if name not in OWN_KEYS and read[name] != value}
    return json.dumps(told), tuple(sorted(name for name in told if name in SERVER_KEYS))


def read_told(text: str, optional: Collection[str], kind: type[J]) -> tuple[J, list[str]]:
    """Return the job that a server told, and the names of its optional keys that are unknown here.

    kind: `Job`.

    Raises NetworkError where it cannot be read, or has a key that a client must know and this one does not.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("it is no mapping")
        _refuse_control_characters(values)
    except (ValueError, RecursionError) as error:
        raise NetworkError(f"the server's job cannot be read: {plain(str(error), 200)}") from None
    unknown = [path for path in _unknown(values, kind) if path[0] in optional]
    required = [".".join(path) for path in _unknown(values, kind) if path not in unknown]
    if required:
        raise NetworkError(
            f"the server's job has keys that this version does not know: {', '.join(required)[:200]}; "
            "install the server's version of splitft"
        )
    for *parents, last in unknown:
        level = values[parents[0]] if parents else values
        del level[last]
    try:
        job = kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problem = plain(problem_lines(error, kind)[0], 300)
        raise NetworkError(f"the server's job cannot be read: {problem}") from None
    return job, [".".join(path) for path in unknown]


def dotted(job: BaseModel) -> dict[str, Any]:
    """Return {key: value} of a whole job, a dot before each key of a group."""
    found: dict[str, Any] = {}
    groups = nested_models(type(job))
    for name, value in job.model_dump(mode="json").items():
        found |= {f"{name}.{key}": one for key, one in value.items()} if name in groups else {name: value}
    return found


def _set_values(model: BaseModel, dumped: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a model, as dumped, that are not the defaults."""
    found = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if name in OWN_KEYS or value == field.get_default(call_default_factory=True):
            continue
        found[name] = _set_values(value, dumped[name]) if isinstance(value, BaseModel) else dumped[name]
    return found


def _unknown(values: dict[str, Any], kind: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Yield the keys of a told job that this version does not have, each with its group's before it."""
    groups = nested_models(kind)
    for name, value in values.items():
        if name not in kind.model_fields:
            yield (name,)
        elif name in groups and isinstance(value, dict):
            yield from ((name, key) for key in value if key not in groups[name].model_fields)


def _refuse_control_characters(value: Any) -> None:
    """Raise ValueError where a text in a job would move the cursor of whoever prints it."""
    if isinstance(value, dict):
        for name, one in value.items():
            _refuse_control_characters(name)
            _refuse_control_characters(one)
    elif isinstance(value, list):
        for one in value:
            _refuse_control_characters(one)
    elif isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{plain(value, 60)!r} holds control characters")
