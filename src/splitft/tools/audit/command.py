"""`splitft audit`: what the server could read of a job's rows, measured on the job's own messages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from splitft.common.files import writable_folder, write_atomically
from splitft.common.notebook import make_console
from splitft.common.quiet import quiet_libraries
from splitft.errors import OutputError, ReadableError
from splitft.history import strict_json
from splitft.job import JobSource, make_job
from splitft.running.methods import with_method
from splitft.running.prepare import Assembly, assemble, note
from splitft.tools.audit import tables
from splitft.tools.audit.attack import SOLVED, Found, attack_all
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.capture import audited, capture, has_answers
from splitft.tools.audit.left_behind import audit_folder
from splitft.tools.audit.lines import Line
from splitft.tools.audit.public import public_rows, public_text
from splitft.tools.audit.published import adapter_lines
from splitft.tools.audit.redacted import redacted_lines

ROWS = 48
JSON, PAGE = "audit.json", "audit.md"


def audit_command(
    job: JobSource,
    *,
    rows: int = ROWS,
    longest: bool = False,
    run: Path | None = None,
    public: Path | None = None,
    prior: float = 0.0,
    out: Path | None = None,
    fail_above: float | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Print what the server could read of a job's first local step; return it as JSON values.

    job: as of `run`. rows: of each client, the first MOST_TOKENS tokens of each. longest: of all its rows in
    the step the longest ones are taken first. run: folder of a run of this job; what was left there is
    attacked, its adapter, too. public: text for the inverter. prior: weight of the model's log probability
    in the attack that verifies. out: folder for audit.json and audit.md. fail_above: the excess over guessing
    above which ReadableError is raised, after all is written. Raises JobError, DataError,
    ModelError, OutputError.
    """
    quiet_libraries()
    console = console or make_console()
    folder = writable_folder(out, "--out") if out else None
    if run is not None and not run.is_dir():
        raise OutputError(f"--run {run} is no folder: give the output_dir of a run of this job")
    began, cpu, text = time.perf_counter(), time.process_time(), public_text(public)
    start = assemble(audited(with_method(make_job(job)), rows, whole=run is not None), console)
    if start.job.splits_model and start.job.codec is None:
        note(console, "the job states no codec: audited without one; over a network its default is int8")
    known = public_rows(start.tokenizer, text)
    knowledge = ServerKnowledge(start.split_model, start.job, start.adapter, known)
    with console.status("taking the first local step of every client"):
        views = capture(start, answered=rows if longest or has_answers(start) else SOLVED)
    found, tools = attack_all(start, knowledge, views, rows, prior, console, longest=longest)
    not_tried = [*tables.NOT_TRIED, *(tables.OF_A_RUN if run else tables.WITHOUT_RUN)]
    lines = [*found.lines, *redacted_lines(start, knowledge, rows)]
    if run is not None:
        with console.status(f"searching {run}, and attacking what is kept there"):
            more, left = audit_folder(start, knowledge, run, tools, without=(JSON, PAGE))
        with console.status(f"asking the adapter in {run} about rows and canaries"):
            of_adapter, lacking = adapter_lines(start, run, rows)
        lines, not_tried = [*lines, *more, *of_adapter], [*not_tried, *left, *lacking]
    left = [name for name in start.names if views and name not in {view.name for view in views}]
    not_tried += [f"other clients: {', '.join(left)}"] if left else []
    seconds = time.perf_counter() - began, time.process_time() - cpu
    told = _told(lines, found, start, rows, not_tried, seconds)
    console.print(tables.lines_table(lines))
    console.print(tables.nulls_table(found.nulls) if found.nulls else "")
    for line in tables.closing(told):
        console.print(line, highlight=False, markup=False)
    if folder:
        for name, content in ((JSON, strict_json(told, indent=1)), (PAGE, tables.page(told))):
            write_atomically(folder / name, content, mode=0o600)
        console.print(f"Audit in {folder}: {JSON}, {PAGE}", highlight=False)
    worst = max((line.reading.tokens.excess for line in lines if line.reading), default=0.0)
    if fail_above is not None and worst > fail_above:
        raise ReadableError(
            f"an attack reads {worst:.0%} of tokens beyond guessing, and --fail-above allows {fail_above:.0%}"
        )
    return told


def _told(
    lines: Sequence[Line],
    found: Found,
    start: Assembly,
    rows: int,
    not_tried: Sequence[str],
    seconds: tuple[float, float],
) -> dict[str, Any]:
    return {
        "lines": [line.to_json() for line in lines],
        "checks": [null.to_json() for null in found.nulls],
        "samples": found.samples,
        "rows": rows,
        "model": start.job.model_name_or_path,
        "codec": start.job.codec,
        "labels": start.job.labels,
        "seconds": round(seconds[0], 1),
        "cpu_seconds": round(seconds[1], 1),
        "not_tried": list(not_tried),
    }
