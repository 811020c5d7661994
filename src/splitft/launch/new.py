"""`splitft new`: recipes of jobs, and the policy of a site."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from splitft.launch.width import columns, listed


def new(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A recipe's name, or site (a client's policy); none: list the recipes."),
    ] = None,
    path: Annotated[Path | None, typer.Argument(help="Where to write; default: RECIPE.yaml here.")] = None,
) -> None:
    """Copy a commented recipe to start from. Never overwrites a file."""
    from splitft.job.recipes import copy_recipe, recipes

    if recipe is None:
        for line in listed(recipes()):
            typer.echo(line)
        advice = "Copy one with `splitft new RECIPE`, or run it as it is with `splitft run RECIPE`."
        typer.echo("\n" + "\n".join(textwrap.wrap(advice, columns())))
        return
    if recipe == "site":
        from splitft.job.site_policy import write_policy

        written = write_policy(path or Path("site.yaml"))
        typer.echo(f"Wrote {written}. Edit it, then: splitft client ... --policy {written}")
        return
    written = copy_recipe(recipe, path or Path(f"{recipe}.yaml"))
    typer.echo(f"Wrote {written}. Edit it, then run it: splitft run {written}")
