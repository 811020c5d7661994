"""Tasks of EleutherAI's lm-eval: found by name, checked, and run on a model in memory.

A task is code: its YAML may name Python functions (`!function`), and its templates are not sandboxed. Tasks
come from the installed package and from the folder that the command line names, never from a run, an adapter
or a model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitft.common.quiet import quiet_datasets
from splitft.common.text import error_line, first_few, nearest
from splitft.errors import DataError, JobError
from splitft.tools.evaluate.target import Target

EXTRA = "pip install 'splitft[eval]'"


@dataclass(frozen=True)
class LoadedTasks:
    """lm-eval's index of tasks, and the tasks and groups to run, with their rows."""

    manager: Any
    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]


@dataclass(frozen=True)
class TaskOptions:
    """Options of lm-eval, under its own names. limit: rows of each task, or their share below 1."""

    tasks: tuple[str, ...]
    include_path: Path | str | None = None
    limit: float | None = None
    num_fewshot: int | None = None
    batch_size: int = 8
    apply_chat_template: bool = False


def load_tasks(options: TaskOptions, target: Target) -> LoadedTasks:
    """Return lm-eval's tasks, ready to run on one model after another.

    Raises JobError where lm-eval is not installed, a name is unknown, or a task may not run here, DataError
    where a task's rows cannot be loaded.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise JobError(f"--tasks needs lm-eval, which is not installed ({error}): {EXTRA}") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # warnings of thousands of task files

    folder = None if options.include_path is None else Path(options.include_path).expanduser()
    if folder is not None:
        if not folder.is_dir():
            raise JobError(
                f"--include-path {folder} is no folder: name the folder of your task files (*.yaml)"
            )
        if target.forbids(folder):
            raise JobError(
                f"--include-path {folder} lies in what is evaluated, or holds it: task files may run code, "
                "and none comes from a run, an adapter or a model. Give your tasks a folder of their own"
            )
    place = None if folder is None else str(folder)
    manager = TaskManager(include_path=place, include_defaults=False)
    if not all(_stands_alone(manager, name) for name in options.tasks):
        manager = TaskManager(include_path=place)  # reads thousands of files: seconds
    for name in options.tasks:
        if name not in manager.all_tasks:
            where = "in lm-eval" if folder is None else f"in lm-eval and {folder}"
            raise JobError(
                f"no task is called {name} {where}{nearest(name, manager.all_tasks, '; ')}; "
                "`lm-eval ls tasks` lists its own, --include-path DIR adds yours"
            )
        for config in _configs(manager, name):
            _check(name, config)
    return _load(manager, options.tasks)


def _stands_alone(manager: Any, name: str) -> bool:
    """Whether a task is in the index, and is no group that may have members elsewhere."""
    entry = manager.task_index.get(name)
    return entry is not None and entry.kind.name in ("TASK", "PY_TASK")


def _configs(manager: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """The configurations of a task, or of the members of a group or a tag, with functions not loaded."""
    waiting, seen = [name], set()
    while waiting:
        entry = manager.task_index.get(waiting.pop())
        if entry is None or entry.name in seen:
            continue
        seen.add(entry.name)
        if entry.kind.name == "TAG":
            waiting += sorted(entry.tags)
        elif entry.cfg is not None:
            yield entry.cfg
            members = entry.cfg.get("task")
            for member in members if isinstance(members, list) else []:
                waiting += [member] if isinstance(member, str) else [member.get(k) for k in ("task", "group")]


def _check(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a task that runs what a model has written, or whose metric would be fetched as code."""
    from lm_eval.api import metrics  # noqa: F401 - which registers its own
    from lm_eval.api.registry import metric_registry

    for part in _mappings(config):
        if part.get("unsafe_code"):
            raise JobError(
                f"task {name} runs code that the model writes (unsafe_code), which splitft does not: run it "
                "with lm-eval itself, in a sandbox, on the model of `splitft export RUN merged --merge`"
            )
        for metric in part.get("metric_list") or ():
            called = metric.get("metric") if isinstance(metric, Mapping) else None
            known = not isinstance(called, str) or called in metric_registry or Path(called).is_absolute()
            if part.get("process_results") is None and (metric.get("hf_evaluate") or not known):
                raise JobError(
                    f"task {name}: metric {called} is none of lm-eval's own and would be fetched from a hub "
                    "as code: use one of lm-eval's, or a !function in your task folder"
                )


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _mappings(item)


def _load(manager: Any, names: Sequence[str]) -> LoadedTasks:
    """Build the tasks with their rows; where no hub answers, from files and the cache alone."""
    from splitft.weights.hub import hub_or_cache

    paths = {
        str(part["dataset_path"])
        for name in names
        for config in _configs(manager, name)
        for part in _mappings(config)
        if isinstance(part.get("dataset_path"), str)
    }
    hub = sorted(path for path in paths if path not in _FORMATS and not Path(path).exists())
    try:
        with hub_or_cache(hub[0], kind="dataset") if hub else nullcontext(), quiet_datasets():
            loaded = manager.load(list(names))
            return LoadedTasks(manager, loaded["tasks"], loaded["groups"])
    except Exception as error:  # datasets, its builders and the functions of a task each raise their own
        if not hub:
            raise DataError(
                f"{first_few(names, 3)}: the task cannot be loaded: {error_line(error)}"
            ) from error
        raise DataError(
            f"{first_few(names, 3)}: the rows of {first_few(hub, 3)} cannot be loaded: {error_line(error)}. "
            "They come from a hub: check the network, or give a local task folder with --include-path"
        ) from error


_FORMATS = ("json", "csv", "parquet", "text", "arrow", "pandas", "xml", "webdataset")  # of `datasets`: files


def run_tasks(model: Any, tokenizer: Any, loaded: LoadedTasks, options: TaskOptions) -> dict[str, Any]:
    """Run the tasks on a model and return lm-eval's results. Raises DataError where a task fails."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    evaluator.get_git_commit_hash = lambda: None  # it asks git about the folder that the command runs in
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch_size, backend="causal")
    try:
        found = evaluator.simple_evaluate(
            lm,
            tasks=[*loaded.groups.values(), *_outside(loaded)],
            task_manager=loaded.manager,
            num_fewshot=options.num_fewshot,
            limit=options.limit,
            apply_chat_template=options.apply_chat_template,
            log_samples=False,
        )
    except (ArithmeticError, LookupError, TypeError, ValueError, AssertionError) as error:
        raise DataError(f"{first_few(options.tasks, 3)}: the task fails: {error_line(error)}") from error
    return dict(found or {})


def _outside(loaded: LoadedTasks) -> list[Any]:
    """The tasks that belong to no group."""
    inside = {task.task_name for group in loaded.groups.values() for task in group.get_all_tasks()}
    return [task for name, task in loaded.tasks.items() if name not in inside]


def metric_values(results: Mapping[str, Any]) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Return {task or group: {metric: (value, standard error or None)}} of lm-eval's results."""
    found: dict[str, dict[str, tuple[float, float | None]]] = {}
    for task, values in {**results.get("results", {}), **results.get("groups", {})}.items():
        for key, value in values.items():
            metric, _, kept = key.partition(",")
            if metric.endswith("_stderr") or not isinstance(value, int | float) or not kept:
                continue
            error = values.get(f"{metric}_stderr,{kept}")
            name = metric if kept == "none" else f"{metric} ({kept})"
            found.setdefault(task, {})[name] = (
                float(value),
                float(error) if isinstance(error, int | float) else None,
            )
    return found
