"""`splitft audit`: its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitft.common.startup import import_libraries
from splitft.launch.options import JOB, OVERRIDES, PLUGIN


def audit(
    job: JOB,
    overrides: OVERRIDES = None,
    rows: Annotated[int, typer.Option(min=2, help="Rows of each client, 64 tokens of each.")] = 48,
    public: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text that the server has anyway; default: this project's pages."),
    ] = None,
    prior: Annotated[
        float, typer.Option(min=0, help="Weight of the model's own expectation where tokens are verified.")
    ] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Folder for audit.json and audit.md.")] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(
            "--fail-above", min=0, max=1, help="Exit with code 10 where more is read beyond guessing."
        ),
    ] = None,
    plugin: PLUGIN = None,
) -> None:
    """Attack the job's own messages as its server could, and print how much of the text is read."""
    from splitft.job import load_job

    loaded = load_job(job, overrides or ())
    import_libraries()
    from splitft.tools.audit.command import audit_command

    audit_command(loaded, rows=rows, public=public, prior=prior, out=out, fail_above=fail_above)
