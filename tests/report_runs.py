"""Real tiny runs of many kinds, for the tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from reference import make_setting, write_rows
from splitft import Job, run

QUIET = Console(quiet=True)
HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "}} {{ 7 * 7 }} &amp; " + "x" * 200,
)


def make_runs(folder: Path) -> Path:
    """Make runs below `folder`/runs and return that folder.

    study: two cuts with two seeds each. one: one client. forty: forty clients. names: long names of clients.
    fed_lora: a method without cuts. devices: simulated devices, cuts that move, a lower rank at the cut.
    """
    setting = make_setting(folder, "llama") | {"eval_every": 1, "rounds": 2, "local_steps": 2}
    settings: dict[str, dict[str, Any]] = {
        f"study/cut{cut}-seed{seed}": {"clients": 3, "cuts": cut, "seed": seed, "lora_r_cut": 2}
        for cut in (1, 2)
        for seed in (1, 2)
    }
    names = ("short", "the-archive-of-a-very-old-hospital", "x" * 200)
    files = {name: str(write_rows(folder / f"{i}.txt", 12, i)) for i, name in enumerate(names)}
    settings |= {
        "one": {"clients": 1, "rounds": 1, "local_steps": 3},
        "forty": {"clients": 40, "rounds": 1, "local_steps": 3},
        "names": {"data_files": files, "rounds": 1, "local_steps": 3},
        "fed_lora": {"clients": 3, "method": "fed_lora"},
        "devices": {
            "clients": 3,
            "cuts": 2,
            "lora_r_cut": 2,
            "devices": ["phone", "laptop", "workstation"],
            "cut_policy": {"method": "schedule", "schedule": {"1": [1, 2, 3], "2": 1}},
        },
    }
    for name, own in settings.items():
        run(Job(**{**setting, **own, "output_dir": str(folder / "runs" / name)}), console=QUIET)
    return folder / "runs"
