"""Job files: read one with its overrides and every error at once; write the effective job; JSON schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from splitft.common.files import writing
from splitft.errors import JobError
from splitft.job.model import Job, grouped_keys
from splitft.job.problems import problem_lines
from splitft.job.recipes import recipe_path, recipes
from splitft.job.yaml import dump_yaml, parse_yaml

_MAX_CHARS = 1_000_000  # far more than any job; a weight file given by mistake is not read whole


def load_job(source: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job file, or a packaged recipe by its name, and apply `key=value` overrides in their order.

    A dot in an override's key goes down a level (`partition.alpha=0.1`); its value is YAML. A file wins over
    a recipe of the same name. Raises JobError with one line for every problem: the file's, the overrides' and
    the job's own.
    """
    name, text = _read(source)
    problems: list[str] = []
    values: Any = None
    try:
        values, problems = parse_yaml(text)
        if not isinstance(values, dict):
            what = "empty" if values is None else f"a {type(values).__name__}, not a mapping"
            raise ValueError(f"not a job: the file is {what}; write `key: value` lines")
    except ValueError as error:
        raise job_error(name, [str(error)]) from None
    for override in overrides:
        problems += _apply(values, override)
    try:
        job = Job.model_validate(values)
    except ValidationError as error:
        raise job_error(name, problems + problem_lines(error)) from None
    if problems:
        raise job_error(name, problems)
    return job


def dump_job(job: Job, path: str | Path) -> None:
    """Write the effective job: every key, in the order of the class, under the class's headings.

    `load_job(path)` gives an equal job. Raises OutputError where the file cannot be written.
    """
    values = job.model_dump()
    parts = ["# The effective job: every key with the value that was used.\n"]
    for heading, keys in grouped_keys().items():
        parts.append(f"\n# {heading}\n{dump_yaml({key: values[key] for key in keys})}")
    with writing(f"the job file {path}", "choose another folder"):
        Path(path).write_text("".join(parts), encoding="utf-8", newline="\n")


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


def _apply(values: dict[str, Any], override: str) -> list[str]:
    """Set one override in place; return what is wrong with it."""
    key, equals, text = override.partition("=")
    *parents, last = key.split(".")
    if not equals or not all([*parents, last]):
        return [f"{override}: an override is written key=value"]
    try:
        value, problems = parse_yaml(text)
    except ValueError as error:
        return [f"{key}: the override's value {text!r} is {error}"]
    level = values
    for i, parent in enumerate(parents):
        inner = level.setdefault(parent, {})
        if not isinstance(inner, dict):
            return [f"{key}: {'.'.join(parents[: i + 1])} is not a mapping, so nothing can be set in it"]
        level = inner
    level[last] = value
    return [f"{key}={text}: {problem}" for problem in problems]


def job_error(name: str, problems: Sequence[str], then: str = "") -> JobError:
    """Return the error that lists problems below their number. then: what follows the number."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return JobError("\n  ".join([f"{name}: {count}{then}", *problems]))
