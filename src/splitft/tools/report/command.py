"""`splitft report RUN…`: the page and the table of finished runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from splitft.common.files import write_atomically
from splitft.common.notebook import make_console
from splitft.errors import OutputError
from splitft.tools.report.groups import group_runs
from splitft.tools.report.page import GENERATOR, default_title, render_page
from splitft.tools.report.paper import FIGURES, NUMBERS, TABLE, TEXT, check_paper, write_paper
from splitft.tools.report.runs import RunFolder, collect_runs
from splitft.tools.report.table import verdict_tables
from splitft.tools.report.verdict import report_data

NAME = "report.html"
_HEAD = 4096  # characters that hold the mark of a report


def report_command(
    run_dirs: Sequence[Path],
    out: Path | None = None,
    title: str | None = None,
    console: Console | None = None,
    *,
    reference: str | None = None,
    paper: bool = False,
    audit_samples: bool = False,
) -> Path:
    """Write the page of all runs in and below the folders, show the verdict tables, return the page's path.

    out: a file, or a folder for `report.html`. Default: `report.html` in the run's folder, or in the folder
    that all runs share. A former report there is replaced; anything else is kept. reference: the name of the
    variant that the others are compared with. paper: write the folder of `paper_folder`, too. audit_samples:
    show text that audits recovered. Raises JobError where a folder holds no run or none has the name,
    OutputError where a run is damaged or the page cannot be written.
    """
    console = console or make_console()
    runs, passed_over = collect_runs(run_dirs)
    target = _target([run.path for run in runs], out)
    check_replaceable(target)  # before the work
    if paper:
        check_paper(paper_folder(target))
    notes = [f"Left out: {reason}" for reason in passed_over]
    for note in notes:
        console.print(note, highlight=False, markup=False)
    write_report(runs, target, console, title, notes, reference, audit_samples=audit_samples)
    if paper:
        variants = group_runs(runs)
        heading = title or default_title(len(variants), len(runs))
        write_paper(variants, report_data(variants, reference), heading, paper_folder(target))
        told = f"Paper: {paper_folder(target)} ({TABLE}, {NUMBERS}, {TEXT}, {FIGURES})"
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    return target


def paper_folder(page: Path) -> Path:
    """Return the folder of a page's table and figures for a paper: beside it, and called after it."""
    return page.with_name(f"{page.stem}-paper")


def write_report(
    runs: Sequence[RunFolder],
    path: Path,
    console: Console,
    title: str | None,
    notes: Sequence[str],
    reference: str | None = None,
    *,
    audit_samples: bool = False,
) -> None:
    """Write the page of runs with these notes at its top; print the verdict tables and the page's path."""
    page = render_page(runs, title, notes=notes, reference=reference, audit_samples=audit_samples)
    write_atomically(path, page)
    for table in verdict_tables(report_data(group_runs(runs), reference)):
        console.print(table)
    console.print(f"Report: {path}", highlight=False, markup=False, soft_wrap=True)


def check_replaceable(path: Path) -> None:
    """Raise OutputError where the path holds anything but an earlier report, or its folder is missing."""
    if not os.path.lexists(path):
        if not path.parent.is_dir():
            raise OutputError(
                f"{path} cannot be written: there is no folder {path.parent}; make it, or name another"
            )
        return
    try:
        with path.open(encoding="utf-8") as file:
            ours = f'content="{GENERATOR}' in file.read(_HEAD)
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise OutputError(
            f"{path} is there already and is no report; name another file, or move that one away"
        )


def _target(runs: Sequence[Path], out: Path | None) -> Path:
    if out is not None:
        return out / NAME if out.is_dir() else out
    if len(runs) == 1:
        return runs[0] / NAME
    return Path(os.path.commonpath([run.resolve() for run in runs])) / NAME
