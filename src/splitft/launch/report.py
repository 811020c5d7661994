"""`splitft report`: its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or above them.")],
    out: Annotated[Path | None, typer.Option(help="File; default: report.html above the runs.")] = None,
    title: Annotated[str | None, typer.Option(help="The page's heading.")] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="NAME", help="The variant that the others are compared with.")
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Write a LaTeX table and the figures for a paper beside the page.")
    ] = False,
    audit_samples: Annotated[
        bool, typer.Option("--audit-samples", help="Show text that audits recovered: if its owner agrees.")
    ] = False,
) -> None:
    """Make one HTML page, which needs no network, from finished runs."""
    from splitft.tools.report.command import report_command

    report_command(runs, out, title, reference=reference, paper=paper, audit_samples=audit_samples)
