"""Job files: read one with its overrides and every error at once; write the effective job; JSON schema."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from splitft.common.files import writing
from splitft.errors import JobError
from splitft.job.model import Job, grouped_keys
from splitft.job.problems import job_error, problem_lines
from splitft.job.recipes import recipe_path, recipes
from splitft.job.yaml import dump_yaml, parse_yaml

JobSource = Job | Mapping[str, Any] | str | Path
_MAX_CHARS = 1_000_000  # far more than any job; a weight file given by mistake is not read whole


def load_job(source: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job file, or a packaged recipe by its name, and apply `key=value` overrides in their order.

    A dot in an override's key goes down a level (`partition.alpha=0.1`); its value is YAML. A file wins over
    a recipe of the same name. Raises JobError with one line for every problem: the file's, the overrides' and
    the job's own.
    """
    return make_job(Path(source), None, overrides)


def make_job(
    source: JobSource, changes: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
) -> Job:
    """Return the job that Python code means, with some keys changed.

    source: A Job, a mapping of its keys, a job file, or the name of a recipe.
    changes: {key: value}; a dot in a key goes down a level, as in an override. They win over overrides.
    overrides: `key=value` texts. Raises JobError as `load_job`.
    """
    if isinstance(source, Job) and not changes and not overrides:
        return source
    problems: list[str] = []
    if isinstance(source, Job):
        name, values = "Job", source.model_dump(exclude_unset=True)
    elif isinstance(source, Mapping):
        name, values = "Job", copy.deepcopy(dict(source))
    elif isinstance(source, str | Path):
        name, values, problems = _parse(source)
    else:
        raise JobError(
            f"a job is a Job, a dict of its keys, a job file or a recipe's name, not {type(source).__name__}"
        )
    if "=" in overrides:
        i = overrides.index("=")
        words = overrides[max(i - 1, 0) : i + 2]
        raise job_error(name, [f"{' '.join(words)}: write {''.join(words)}, without spaces around the ="])
    for override in overrides:
        problems += _apply(values, override)
    for key, value in (changes or {}).items():
        problems += _set(values, key, value)
    return _checked(name, values, problems)


def dump_job(job: Job, path: str | Path) -> None:
    """Write the effective job: every key not left open, in the class's order, under the class's headings.

    `load_job(path)` gives an equal job. Raises OutputError where the file cannot be written.
    """
    values = job.model_dump(exclude=left_open(job))
    parts = ["# The effective job: every key with the value that was used.\n"]
    for heading, keys in grouped_keys().items():
        parts.append(f"\n# {heading}\n{dump_yaml({key: values[key] for key in keys if key in values})}")
    with writing(f"the job file {path}", "choose another folder"):
        Path(path).write_text("".join(parts), encoding="utf-8", newline="\n")


def left_open(job: Job) -> set[str]:
    """Return the keys that the job leaves to its data; whoever reads the job again must find them unset.

    A stated `dataset_text_field` wins over prompt + completion; a stated `clients` must be the number found.
    """
    found = {"clients"} if job.partition.method in ("by_column", "files") else set()
    return (found | {"dataset_text_field"}) - job.model_fields_set


def job_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a job file, with the description and default of every key."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Job.model_json_schema()}
    return schema | {"title": "SplitFT job", "description": "One run, complete."}


def _read(source: str | Path) -> tuple[str, str]:
    """The name to show in messages, and the text."""
    name, path = str(source), Path(source)
    if name in recipes() and not path.is_file():
        name, path = f"recipe {name}", recipe_path(name)
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_MAX_CHARS + 1)
    except FileNotFoundError:
        raise JobError(
            f"there is no file {name}, nor a recipe of that name; `splitft new` lists the recipes"
        ) from None
    except UnicodeDecodeError:
        raise JobError(f"{name} is not UTF-8 text; a job is a YAML file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise JobError(f"cannot read {name}: {getattr(error, 'strerror', error)}") from None
    if len(text) > _MAX_CHARS:
        raise JobError(f"{name} is longer than {_MAX_CHARS:,} characters; a job is a short YAML file")
    return name, text


def _parse(source: str | Path) -> tuple[str, dict[str, Any], list[str]]:
    """The name to show in messages, the values of a job file, and a line for each that no job may hold."""
    name, text = _read(source)
    try:
        values, problems = parse_yaml(text)
        if not isinstance(values, dict):
            what = "empty" if values is None else f"a {type(values).__name__}, not a mapping"
            raise ValueError(f"not a job: the file is {what}; write `key: value` lines")
    except ValueError as error:
        raise job_error(name, [str(error)]) from None
    return name, values, problems


def _checked(name: str, values: Mapping[str, Any], problems: list[str]) -> Job:
    """Return the job of these values, or raise JobError with all problems, those found before first."""
    try:
        job = Job.model_validate(values)
    except ValidationError as error:
        raise job_error(name, problems + problem_lines(error, Job)) from None
    if problems:
        raise job_error(name, problems)
    return job


def _apply(values: dict[str, Any], override: str) -> list[str]:
    """Set one override in place; return what is wrong with it."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        return [f"{override}: an override is written key=value"]
    try:
        value, problems = parse_yaml(text)
    except ValueError as error:
        return [f"{key}: the override's value {text!r} is {error}"]
    return _set(values, key, value) or [f"{key}={text}: {problem}" for problem in problems]


def _set(values: dict[str, Any], key: str, value: Any) -> list[str]:
    """Set a dotted key in place; return what is wrong with it."""
    *parents, last = key.split(".")
    level: Any = values
    for i, parent in enumerate(parents):
        inner = level.setdefault(parent, {})
        if isinstance(inner, BaseModel):
            inner = level[parent] = inner.model_dump(exclude_unset=True)
        if not isinstance(inner, dict):
            return [f"{key}: {'.'.join(parents[: i + 1])} is not a mapping, so nothing can be set in it"]
        level = inner
    level[last] = value
    return []
