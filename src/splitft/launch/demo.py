"""`splitft demo`: the quickstart, with its model fetched where it is missing."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import typer

from splitft.common.startup import import_libraries
from splitft.launch.options import OVERRIDES

RECIPE = "quickstart"


def demo(overrides: OVERRIDES = None) -> None:
    """Fine-tune the built-in model on the built-in text, in minutes on a CPU; never over an earlier run."""
    from splitft.job import load_job
    from splitft.weights.builtin import check_demo_packages
    from splitft.weights.fetch import fetch_demo_model

    wanted = list(overrides or ())
    if not any(override.startswith("output_dir=") for override in wanted):
        wanted.append(f"output_dir={free_folder(Path('runs', RECIPE))}")
    job = load_job(RECIPE, wanted)
    check_demo_packages()
    fetch_demo_model(typer.echo)
    import_libraries()
    from splitft.running.runner import run

    run(job)


def free_folder(folder: Path) -> Path:
    """The folder if there is nothing yet, else the first of FOLDER-2, FOLDER-3, … that is free."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return next(name for name in names if not name.exists())
