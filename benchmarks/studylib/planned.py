"""What `splitft plan` predicts for runs of the study, beside the virtual clock of the runs themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from splitft.compare.plan import Variant
from splitft.errors import SplitFTError
from splitft.output import write_atomically


def planned_seconds(variants: Sequence[Variant], cache: Path, console: Console) -> dict[str, float | None]:
    """Return {run: virtual seconds of all rounds, planned without training}; None where no plan can be made.

    cache: a JSON file that keeps them. A plan takes the run's loading of data, and seconds more.
    """
    known: dict[str, float | None] = {}
    if cache.is_file():
        known = json.loads(cache.read_text(encoding="utf-8"))
    for variant in variants:
        if variant.run not in known:
            with console.status(f"planning {variant.label}, seed {variant.seed}"):
                known[variant.run] = _plan(variant)
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(cache, json.dumps(known, indent=1))
    return {variant.run: known[variant.run] for variant in variants}


def _plan(variant: Variant) -> float | None:
    from splitft.plan.command import plan_command

    try:
        seconds = plan_command(variant.job, console=Console(quiet=True)).get("virtual_seconds")
    except SplitFTError:
        return None
    return None if seconds is None else float(seconds)
