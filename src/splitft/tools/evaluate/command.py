"""`splitft evaluate`: a run, an adapter or a model on tasks of lm-eval, and on rows that it continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from splitft.common.files import write_atomically
from splitft.common.quiet import quiet_libraries
from splitft.common.tables import make_table
from splitft.errors import JobError, OutputError
from splitft.history import strict_json
from splitft.tools.evaluate.generation import GenerationOptions, generate, load_references, scores_of
from splitft.tools.evaluate.harness import TaskOptions, load_tasks, metric_values, run_tasks
from splitft.tools.evaluate.scores import METRICS, check_scorers
from splitft.tools.evaluate.target import Dtype, Target, find_target, load_base, with_adapter
from splitft.weights.hub import resolve_model
from splitft.weights.load import load_tokenizer

NAME = "evaluation.json"
Results = dict[str, Any]  # of one model: what lm-eval returns, and the scores and texts of each client


def evaluate(
    target: str | Path,
    *,
    tasks: TaskOptions | None = None,
    generation: GenerationOptions | None = None,
    model: str | None = None,
    base: bool = True,
    dtype: Dtype = "float32",
    output: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Evaluate a run, an adapter or a model; print a table; write and return the figures.

    tasks, generation: what to evaluate; at least one of them. model: the base model, where it has another
    name here than the run or the adapter says. base: whether the base model is evaluated, too, before the
    adapter. output: a file that is not there yet; default: evaluation.json in the run's folder, if there is
    one. Raises JobError, DataError, ModelError, OutputError.
    """
    console = console or Console()
    # 1. Everything that can be wrong, before a model is loaded.
    if tasks is None and generation is None:
        raise JobError("nothing to evaluate: give --tasks NAME[,NAME], --generate, or both")
    if generation is not None:
        check_scorers()
    found = find_target(str(target), model)
    resolve_model(found.base)
    path = _output(found, output)
    quiet_libraries()
    loaded = load_tasks(tasks, found) if tasks else None
    tokenizer = load_tokenizer(found.base, found.revision, found.adapter)
    references = load_references(generation, found, tokenizer) if generation else {}
    # 2. The models one after another: the adapter changes the base in place.
    model_ = load_base(found, dtype)

    def measure() -> Results:
        results: Results = {}
        if tasks is not None and loaded is not None:
            results["tasks"] = run_tasks(model_, tokenizer, loaded, tasks)
        if generation is not None:
            texts = generate(model_, tokenizer, references, generation)
            results["generation"] = {"scores": scores_of(texts, references), "texts": texts}
        return results

    results: dict[str, Results] = {}
    if base or found.adapter is None:
        results["base"] = measure()
    if found.adapter is not None:
        model_ = with_adapter(model_, found)
        results["adapter"] = measure()
    # 3. The table, and the file.
    if tasks is not None:
        console.print(_task_table(results))
    if generation is not None:
        rows = {name: len(own) for name, own in references.items()}
        console.print(_score_table(results, rows))
    report = _report(found, dtype, tasks, generation, results)
    report["references"] = {name: [row.text for row in own] for name, own in references.items()}
    if path is not None:
        write_atomically(path, strict_json(report, indent=1))
        console.print(f"Results: {path}", highlight=False, markup=False, soft_wrap=True)
    return report


def _output(target: Target, output: Path | None) -> Path | None:
    if output is None:
        if target.run is None:
            return None
        path, number = target.run / NAME, 2
        while path.exists():
            path, number = target.run / f"{Path(NAME).stem}-{number}.json", number + 1
        return path
    if output.exists():
        raise OutputError(f"--output {output} is there already; name another file")
    if not output.parent.is_dir():
        raise OutputError(f"--output {output} cannot be written: there is no folder {output.parent}")
    return output


def _report(
    target: Target,
    dtype: str,
    tasks: TaskOptions | None,
    generation: GenerationOptions | None,
    results: Mapping[str, Results],
) -> dict[str, Any]:
    """The figures as they are written: of each model, what the libraries returned."""
    kept = ("results", "groups", "n-shot", "n-samples", "versions", "higher_is_better")
    libraries = ["splitft", "torch", "transformers", "peft"]
    libraries += ["lm-eval"] if tasks else []
    libraries += ["rouge-score", "sacrebleu"] if generation else []
    shown: dict[str, Any] = {
        "base": target.base,
        "adapter": None if target.adapter is None else str(target.adapter),
        "dtype": dtype,
        "versions": {name: version(name) for name in libraries},
    }
    if tasks is not None:
        shown["tasks"] = {
            name: {key: _plain(own["tasks"][key]) for key in kept if key in own["tasks"]}
            for name, own in results.items()
        }
        shown["task_options"] = _options(tasks)
    if generation is not None:
        shown["generation"] = {name: own["generation"] for name, own in results.items()}
        shown["generation_options"] = _options(generation)
    return shown


def _options(options: TaskOptions | GenerationOptions) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}


def _plain(value: Any) -> Any:
    """Return a value of lm-eval as JSON has it: numpy's numbers as numbers, anything else as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.item() if hasattr(value, "item") else str(value)


def _task_table(results: Mapping[str, Results]) -> Table:
    """One row a task and metric: value and standard error of each model."""
    values = {name: metric_values(own["tasks"]) for name, own in results.items()}
    table = make_table("Tasks (lm-eval)", "task", "metric", *_headings(results, "stderr"), left=2)
    last = list(values)[-1]
    for task, metrics in values[last].items():
        for metric in metrics:
            cells: list[str] = []
            for own in values.values():
                value, error = own.get(task, {}).get(metric, (None, None))
                cells += [_figure(value), _figure(error)]
            table.add_row(task, metric, *cells)
    return table


def _score_table(results: Mapping[str, Results], rows: Mapping[str, int]) -> Table:
    """One row a client and metric: the value of each model."""
    table = make_table(
        "Generated texts", "client", "rows", "metric", *_headings(results),
        left=1, caption="exact_match and ROUGE: 0 to 1; BLEU: 0 to 100",
    )  # fmt: skip
    scores = {name: own["generation"]["scores"] for name, own in results.items()}
    for client in next(iter(scores.values())):
        count = rows.get(client, sum(rows.values()))
        for place, metric in enumerate(METRICS):
            first = (client, f"{count}") if place == 0 else ("", "")
            table.add_row(*first, metric, *(_figure(own[client][metric]) for own in scores.values()))
    return table


def _headings(results: Mapping[str, Results], *more: str) -> list[str]:
    """The columns of each model: before is the base, after is the adapter on it."""
    shown: Callable[[str], str] = {"base": "before", "adapter": "after"}.__getitem__
    names = [shown(name) for name in results] if len(results) > 1 else ["value"]
    return [heading for name in names for heading in (name, *more)]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
