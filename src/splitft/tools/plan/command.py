"""`splitft plan`: what a job would take, without training it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from splitft.common.files import write_atomically
from splitft.common.quiet import quiet_libraries
from splitft.common.startup import import_libraries
from splitft.errors import JobError, OutputError
from splitft.history import strict_json
from splitft.job import Job

if TYPE_CHECKING:
    from splitft.devices import Device


_BY_ACCURACY = ("accuracy", "splitft")


def plan_command(
    job: Job,
    *,
    clients: int | None = None,
    mix: str | None = None,
    codecs: bool = False,
    out: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Print the plan of a job and return it as JSON values; write plan.json and plan.png into `out`.

    Args:
        clients: Plan one round of that many clients instead, with devices drawn from `mix`.
        codecs: Load the weights, too, and try every codec on one batch.

    Raises:
        JobError, DataError, ModelError, OutputError.
    """
    if (clients is None) != (mix is None):
        raise JobError("--clients and --mix go together: --clients 10000 --mix phone=0.6,laptop=0.4")
    if clients is not None and not job.splits_model:
        raise JobError(f"--clients plans a split, and method {job.method} has none")
    if codecs and (clients is not None or not job.splits_model):
        raise JobError(
            "--codecs tries codecs at the cuts of the job's own clients: leave out --clients, and set method "
            "splitft or same_split"
        )
    console = console or Console()
    import_libraries()
    quiet_libraries()

    from splitft.running.prepare import assemble
    from splitft.tools.plan.scale import draw_cohort, parse_mix

    devices = None if clients is None else draw_cohort(job, clients, parse_mix(mix or ""))
    folder = _folder(out)
    start = assemble(job, console, weights=False)
    plan = (
        _plan_run(start, folder, console) if devices is None else _plan_scale(start, devices, folder, console)
    )
    if codecs:
        plan |= _plan_codecs(start.job, console)
    elif start.job.splits_model and start.job.codec is None:
        console.print("Codecs: `splitft plan JOB --codecs` loads the weights and prints what each one loses.")
    if folder:
        write_atomically(folder / "plan.json", strict_json(plan, indent=1))
        console.print(f"Plan in {folder}: plan.json, plan.png", highlight=False)
    return plan


def _plan_run(start: Any, folder: Path | None, console: Console) -> dict[str, Any]:
    from splitft.devices.measure import model_costs
    from splitft.running.parties import make_planner
    from splitft.tools.plan import tables
    from splitft.tools.plan.cuts import cut_costs, policy_starts
    from splitft.tools.plan.dry import dry_run
    from splitft.tools.plan.picture import cuts_picture

    job = start.job
    with console.status("planning") as status:
        run = dry_run(start, lambda round_: status.update(f"planning round {round_} of {job.rounds}"))
        machines = run.machines
        costs = machines.costs if machines else model_costs(start.model)
        rows = cut_costs(job, costs, machines, start.clients)
        starts = policy_starts(job, make_planner(start, machines), machines, start.clients)
    console.print(tables.cuts_table(rows, len(start.clients)))
    console.print(tables.policies_table(starts))
    console.print(tables.bytes_table(run))
    timed = tables.time_table(run)
    console.print(timed if timed else "No time is predicted: the job states no devices.")
    if job.method == "splitft" and job.cut_policy.method in _BY_ACCURACY:
        console.print(
            "The policy goes by accuracies, which a plan cannot know: later rounds may have other cuts than "
            "planned here.",
            highlight=False,
        )
    if folder:
        cuts_picture(rows, folder / "plan.png")
    return {
        "cuts": [asdict(row) for row in rows],
        "policies": [asdict(each) for each in starts],
        "bytes": run.ledger.by_kind(),
        "rounds": [
            {"round": r.round, "cuts": r.cuts, "bytes": r.bytes, "virtual_seconds": r.virtual_seconds}
            for r in run.records
        ],
        "virtual_seconds": sum(r.virtual_seconds or 0.0 for r in run.records) if machines else None,
    }


def _plan_codecs(job: Job, console: Console) -> dict[str, Any]:
    from splitft.running.prepare import assemble
    from splitft.tools.plan.codecs import try_codecs
    from splitft.tools.plan.tables import codecs_table

    with console.status("trying codecs"):
        trials = try_codecs(assemble(job, Console(quiet=True)))
    console.print(codecs_table(trials))
    return {"codecs": [asdict(trial) for trial in trials]}


def _plan_scale(
    start: Any, devices: Mapping[str, Device], folder: Path | None, console: Console
) -> dict[str, Any]:
    from splitft.devices.measure import model_costs
    from splitft.tools.plan import tables
    from splitft.tools.plan.picture import scale_picture
    from splitft.tools.plan.scale import plan_scale

    with console.status(f"planning a round of {len(devices):,} clients"):
        plan = plan_scale(start.job, model_costs(start.model), start.clients, devices)
    for table in tables.scale_tables(plan):
        console.print(table)
    for line in tables.scale_lines(plan):
        console.print(line, highlight=False)
    if folder:
        scale_picture(plan, folder / "plan.png")
    return {
        "clients": plan.clients,
        "present": plan.present,
        "round_seconds": plan.times.seconds,
        "server_seconds": plan.times.server_seconds,
        "server_memory_bytes": plan.server_memory_bytes,
        "bytes_up": plan.bytes_up,
        "bytes_down": plan.bytes_down,
        "devices": plan.devices,
        "cuts": plan.cuts,
        "finished_seconds": plan.finished.tolist(),
    }


def _folder(out: Path | None) -> Path | None:
    if out is None:
        return None
    folder = out.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"--out {folder} cannot be written: {error.strerror}; choose another") from None
    return folder
