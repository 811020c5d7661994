"""`splitft audit`: its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitft.launch.arguments import load
from splitft.launch.options import JOB, OVERRIDES, PLUGIN

if TYPE_CHECKING:
    from splitft.running.meters import Meter, OwnMeter

READABLE = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Every N rounds read how much of the text the activations tell (inverter)."
    ),
]


def meter_of(every: int | None) -> Meter | None:
    """Return the meter of a run that reads every so many rounds; None: it reads none."""
    if every is None:
        return None
    from splitft.tools.audit.meter import ReadableMeter

    return ReadableMeter(every)


def site_meter_of(every: int | None) -> OwnMeter | None:
    """Return the meter of a client that reads its own rows every so many rounds; None: it reads none."""
    if every is None:
        return None
    from splitft.tools.audit.site_meter import SiteMeter

    return SiteMeter(every)


def audit(
    job: JOB,
    overrides: OVERRIDES = None,
    rows: Annotated[int, typer.Option(min=2, help="Rows of each client, 64 tokens of each.")] = 48,
    longest: Annotated[
        bool, typer.Option("--longest", help="Take each client's longest rows in place of its first.")
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Attack what a run of this job left in its folder, too."),
    ] = None,
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
    loaded = load(job, overrides)
    from splitft.tools.audit.command import audit_command

    audit_command(
        loaded,
        rows=rows,
        longest=longest,
        run=run,
        public=public,
        prior=prior,
        out=out,
        fail_above=fail_above,
    )
