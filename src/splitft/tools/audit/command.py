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
from splitft.errors import ReadableError
from splitft.history import strict_json
from splitft.job import JobSource, make_job
from splitft.running.methods import with_method
from splitft.running.prepare import Assembly, assemble, note
from splitft.tools.audit import tables
from splitft.tools.audit.attack import SOLVED, Found, attack_all
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.capture import audited, capture
from splitft.tools.audit.public import public_rows, public_text
from splitft.tools.audit.redacted import redacted_lines

ROWS = 48


def audit_command(
    job: JobSource,
    *,
    rows: int = ROWS,
    public: Path | None = None,
    prior: float = 0.0,
    out: Path | None = None,
    fail_above: float | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Print what the server could read of a job's first local step; return it as JSON values.

    job: as of `run`. rows: of each client, the first MOST_TOKENS tokens of each. public: text for the
    inverter. prior: weight of the model's log probability in the attack that verifies. out: folder for
    audit.json and audit.md. fail_above: the excess over guessing above which ReadableError is raised, after
    all is written. Raises JobError, DataError, ModelError, OutputError.
    """
    quiet_libraries()
    console = console or make_console()
    folder = writable_folder(out, "--out") if out else None
    began, text = time.perf_counter(), public_text(public)
    start = assemble(audited(with_method(make_job(job)), rows), console)
    if start.job.splits_model and start.job.codec is None:
        note(console, "the job states no codec: audited without one; over a network its default is int8")
    known = public_rows(start.tokenizer, text)
    knowledge = ServerKnowledge(start.split_model, start.job, start.adapter, known)
    with console.status("taking the first local step of every client"):
        views = capture(start, answered=SOLVED)
    found = attack_all(start, knowledge, views, rows, prior, console)
    found.lines.extend(redacted_lines(start, knowledge, rows))
    left = [name for name in start.names if views and name not in {view.name for view in views}]
    told = _told(found, start, rows, left, time.perf_counter() - began)
    console.print(tables.lines_table(found.lines))
    console.print(tables.nulls_table(found.nulls) if found.nulls else "")
    for line in tables.closing(told):
        console.print(line, highlight=False, markup=False)
    if folder:
        write_atomically(folder / "audit.json", strict_json(told, indent=1))
        write_atomically(folder / "audit.md", tables.page(told))
        console.print(f"Audit in {folder}: audit.json, audit.md", highlight=False)
    worst = max((line.reading.tokens.excess for line in found.lines if line.reading), default=0.0)
    if fail_above is not None and worst > fail_above:
        raise ReadableError(
            f"an attack reads {worst:.0%} of tokens beyond guessing, and --fail-above allows {fail_above:.0%}"
        )
    return told


def _told(found: Found, start: Assembly, rows: int, left: Sequence[str], seconds: float) -> dict[str, Any]:
    return {
        "lines": [line.to_json() for line in found.lines],
        "checks": [null.to_json() for null in found.nulls],
        "samples": found.samples,
        "rows": rows,
        "model": start.job.model_name_or_path,
        "codec": start.job.codec,
        "labels": start.job.labels,
        "seconds": round(seconds, 1),
        "not_tried": [*tables.NOT_TRIED, *([f"other clients: {', '.join(left)}"] if left else [])],
    }
