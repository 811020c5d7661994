"""`splitft check`: prove a model's split, or every type's, and print the result."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from transformers import PreTrainedConfig

from splitft.errors import ModelError
from splitft.model.config import count_blocks
from splitft.model.window import find_blocks
from splitft.proof.every_type import check_all_architectures
from splitft.proof.split import SplitReport, check_split, valid_cuts
from splitft.proof.targets import by_reason
from splitft.running.check import JobReport
from splitft.weights.kinds import causal_class, sees_images
from splitft.weights.load import load_config
from splitft.weights.quantized import quantization
from splitft.weights.shrink import NotBuiltError, shrink_config, tiny_random_model

_COLORS = {
    "exact": "green",
    "exact with real ids": "cyan",
    "splits only": "magenta",
    "refused": "red",
    "could not be built": "yellow",
}
VERDICTS = tuple(_COLORS)

_SERVER = {
    "dummy_ids": "dummy_ids: activations alone",
    "input_ids": "input_ids: activations and the text's token ids",
}


def check_command(
    model: str, cuts: Sequence[int] | None = None, console: Console | None = None
) -> SplitReport:
    """Prove one model's split on a small copy of its configuration; print and return the findings.

    Raises ModelError where the model is missing or a cut is not possible.
    """
    # The report, on a small copy.
    console = console or _console()
    config = load_config(model)
    text, found = causal_class(config)[1], quantization(config)
    count = count_blocks(text)
    if cuts is not None:
        valid_cuts(cuts, count)
    with console.status(f"checking {model} on a small copy of its configuration"):
        report = check_split(config, cuts)
        blocks = _block_list(config)
    # Its findings, a line each.
    rows = [
        ("model", model),
        ("type", config.model_type + (", on text without images" if sees_images(config) else "")),
        *((("quantised", f"{found}; the copy is not: a run tries its own layers"),) if found else ()),
        ("blocks", f"{count} in {blocks}"),
        ("cuts", _cuts(report, cuts)),
        ("server", _SERVER[report.server_inputs] if report.ok else "nothing proven"),
        ("labels at home", _tail(report) if report.ok else "not tried"),
        ("clients together", _unless(report.together, "yes, whatever their cuts", "one at a time")),
        ("in parts", _unless(report.parts, "yes", "whole batches")),
        ("without padding", _unless(report.padding_free, "yes", "rows are padded")),
        ("LoRA on", ", ".join(report.targets) or "not tried"),
        *(
            [("experts", f"{', '.join(report.experts)}, where lora_target_parameters names them")]
            if report.experts
            else []
        ),
        *((f"not on {names}", problem) for problem, names in by_reason(report.left_out).items()),
        ("largest difference", _largest(report)),
        ("verdict", _verdict(report)),
        ("", report.reason),
    ]
    console.print(_listed(rows))
    return report


def tell_job(found: JobReport, console: Console | None = None) -> None:
    """Print the proof of a job."""
    rows = [
        ("model", found.model),
        ("type", found.split.model_type),
        ("cuts", ", ".join(map(str, found.cuts))),
        ("server", _SERVER[found.split.server_inputs]),
        ("labels", found.labels),
        ("LoRA on", f"{', '.join(found.targets)}; rank {found.rank}"),
        *((f"not on {names}", problem) for problem, names in by_reason(found.left_out).items()),
        ("without padding", _unless(found.split.padding_free, "yes", "rows are padded", "not asked for")),
        ("in parts", "yes" if found.in_parts else "not asked for"),
        ("clients together", _unless(found.together, "yes", "one at a time", "not asked for")),
        ("largest difference", _largest(found.split)),
        ("verdict", _verdict(found.split)),
        ("", "a training step with these adapters is that of the whole model, and stock peft loads them"),
    ]
    (console or _console()).print(_listed(rows))


def check_all_command(console: Console | None = None) -> int:
    """Try every causal and vision-language type of transformers, and print one row for each; return 0."""
    console = console or _console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def tell(report: SplitReport, done: int, total: int) -> None:
            bar.update(task, description=f"{report.model_type:24}", completed=done, total=total)

        reports = check_all_architectures(tell)
    console.print(architecture_table(reports))
    console.print(totals(reports))
    return 0


def architecture_table(reports: Sequence[SplitReport]) -> Table:
    """One row for each model type."""
    table = Table(title="Split against whole: every cut of a small random copy of each type")
    for name in ("model type", "verdict", "blocks tried", "labels at home", "gradients", "why"):
        table.add_column(name, no_wrap=name == "model type", overflow="fold")
    for report in reports:
        tried = str(max(report.cuts) + 1) if report.cuts and report.built else ""
        found = (_tail(report), _gradient(report)) if report.ok else ("", "")
        why = "" if report.verdict == "exact" else report.reason
        table.add_row(report.model_type, _verdict(report), tried, *found, why)
    return table


def totals(reports: Sequence[SplitReport]) -> str:
    """How many types got each verdict, in one line."""
    counts: Counter[str] = Counter(report.verdict for report in reports)
    return f"{len(reports)} types: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)


def _listed(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(name, value)
    return table


def _console() -> Console:
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(width=160)  # a file or a pipe has no width of its own
    return console


def _block_list(config: PreTrainedConfig) -> str:
    try:
        model = tiny_random_model(shrink_config(config))
        parent, attribute, blocks = find_blocks(model)
    except NotBuiltError:
        return "a list that is not known"
    except ModelError:
        return "no list that could be found"
    path = next((name for name, module in model.named_modules() if module is parent), "")
    return f"{'.'.join(filter(None, (path, attribute)))} ({type(blocks[0]).__name__})"


def _cuts(report: SplitReport, asked: Sequence[int] | None) -> str:
    if asked is not None:
        return ", ".join(map(str, report.cuts))
    return f"every cut of the copy, {report.cuts[0]} to {report.cuts[-1]}" if report.built else "none tried"


def _verdict(report: SplitReport) -> str:
    return f"[{_COLORS[report.verdict]}]{report.verdict}[/]"


def _tail(report: SplitReport) -> str:
    if report.tail_exact is None:
        return "not tried"
    return "yes" if report.tail_exact and report.server_inputs == "dummy_ids" else "no"


def _unless(problem: str | None, yes: str, no: str, unknown: str = "not tried") -> str:
    """A finding with its problem: None where nothing was tried, empty where there is none."""
    if problem is None:
        return unknown
    return f"no, {no}: {problem}" if problem else yes


def _largest(report: SplitReport) -> str:
    return f"logits {report.max_logit_difference:.2g}, gradients {_gradient(report)}"


def _gradient(report: SplitReport) -> str:
    largest = report.max_gradient_difference
    return "0" if largest == 0 else f"{largest:.1g}"
