"""`splitft evaluate`: its arguments. Options of lm-eval have its names, in its spelling, too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from splitft.common.startup import import_libraries
from splitft.errors import JobError
from splitft.launch.options import PLUGIN

LM_EVAL_SPELLING = {"token_normalize_func": lambda name: name.replace("_", "-")}  # --include_path
_DTYPES = ("float32", "bfloat16", "float16")


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|ADAPTER|MODEL", help="A run's output_dir, an adapter's folder, or a model."
        ),
    ],
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Tasks, groups or tags of lm-eval, separated by commas.")
    ] = None,
    include_path: Annotated[
        Path | None,
        typer.Option("--include-path", help="Folder with task files of your own; they may run code."),
    ] = None,
    limit: Annotated[
        float | None, typer.Option(min=0, help="Rows of each task, or their share if below 1.")
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option("--num-fewshot", min=0, help="Examples before each question."),
    ] = None,
    apply_chat_template: Annotated[
        bool,
        typer.Option("--apply-chat-template", help="Put questions into the chat template."),
    ] = False,
    generate: Annotated[
        bool,
        typer.Option(
            "--generate", help="Continue held-out prompts; exact match, ROUGE and BLEU of each client."
        ),
    ] = False,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="With --generate: tokens of a continuation.")
    ] = 64,
    max_samples: Annotated[int, typer.Option(min=1, help="With --generate: rows of each client.")] = 50,
    data: Annotated[
        Path | None, typer.Option(help="With --generate: all rows of this file in the place of the run's.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="With --data: the rows of it that this client's training holds out.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Rows that are computed at once.")
    ] = 8,
    base: Annotated[
        bool, typer.Option("--base/--no-base", help="Evaluate the base model, too, before the adapter.")
    ] = True,
    model: Annotated[
        str | None, typer.Option(help="The base model, where it has another name on this machine.")
    ] = None,
    dtype: Annotated[str, typer.Option(help=f"Of the base: {', '.join(_DTYPES)}.")] = _DTYPES[0],
    output: Annotated[
        Path | None,
        typer.Option(help="File to write; default: evaluation.json in the run's folder."),
    ] = None,
    plugin: PLUGIN = None,
) -> None:
    """Score an adapter and its base on tasks of lm-eval, or on held-out prompts that they continue."""
    names = tuple(dict.fromkeys(part.strip() for part in (tasks or "").split(",") if part.strip()))
    if dtype not in _DTYPES:
        raise JobError(f"--dtype {dtype}: choose {', '.join(_DTYPES)}")
    if data is not None and not generate:
        raise JobError("--data goes with --generate")
    if name is not None and data is None:
        raise JobError("--name goes with --data")
    if include_path is not None and not names:
        raise JobError("--include-path goes with --tasks")
    import_libraries()
    from splitft.tools.evaluate import command
    from splitft.tools.evaluate.generation import GenerationOptions
    from splitft.tools.evaluate.harness import TaskOptions

    chosen: Any = dtype
    command.evaluate(
        target,
        tasks=TaskOptions(names, include_path, _whole(limit), num_fewshot, batch_size, apply_chat_template)
        if names
        else None,
        generation=GenerationOptions(max_new_tokens, max_samples, batch_size, data, name)
        if generate
        else None,
        model=model,
        base=base,
        dtype=chosen,
        output=output,
    )


def _whole(limit: float | None) -> float | None:
    """lm-eval takes a number of rows as an integer."""
    return int(limit) if limit is not None and limit >= 1 else limit
