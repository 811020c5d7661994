"""`splitft plan`: what a job would take, without training it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from splitft.common.files import writable_folder, write_atomically
from splitft.common.notebook import make_console
from splitft.common.quiet import quiet_libraries
from splitft.devices.measure import model_costs
from splitft.errors import JobError
from splitft.history import strict_json
from splitft.job import Job
from splitft.running.methods import with_method
from splitft.running.parties import make_planner
from splitft.running.prepare import assemble
from splitft.tools.plan import tables
from splitft.tools.plan.codecs import try_codecs
from splitft.tools.plan.cuts import cut_costs, first_round, policy_starts
from splitft.tools.plan.dry import dry_run
from splitft.tools.plan.picture import cuts_picture


def plan_command(
    job: Job, *, codecs: bool = False, out: Path | None = None, console: Console | None = None
) -> dict[str, Any]:
    """Print the plan of a job and return it as JSON values; write plan.json and plan.png into `out`.

    codecs: Load the weights, too, and try every codec on one batch. Raises JobError, DataError, ModelError,
    OutputError.
    """
    job = with_method(job)
    if codecs and not job.splits_model:
        raise JobError(
            f"--codecs tries codecs at a cut, and method {job.method} has none: set method splitft"
        )
    quiet_libraries()
    console = console or make_console()
    folder = writable_folder(out, "--out") if out else None
    start = assemble(job, console, weights=False)
    job = start.job
    with console.status("planning") as status:
        run = dry_run(start, lambda round_: status.update(f"planning round {round_} of {job.rounds}"))
        machines = run.parties.machines
        costs = machines.costs if machines else model_costs(start.model)
        drawn = first_round(job, start.clients)
        rows = cut_costs(job, costs, machines, drawn)
        starts = policy_starts(job, make_planner(start, machines).observe(1), machines, drawn)
    console.print(tables.cuts_table(rows, len(start.clients)))
    console.print(tables.policies_table(starts))
    console.print(tables.bytes_table(run))
    timed = tables.time_table(run)
    console.print(timed if timed else "No time is predicted: the job states no devices.")
    if job.method == "splitft" and job.cut_policy.method in ("accuracy", "splitft"):
        console.print(
            "The policy goes by accuracies, which a plan cannot know: later rounds may have other cuts than "
            "planned here.",
            highlight=False,
        )
    plan: dict[str, Any] = {
        "cuts": [asdict(row) for row in rows],
        "policies": [asdict(each) for each in starts],
        "bytes": run.parties.ledger.by_kind(),
        "rounds": [
            {"round": r.round, "cuts": r.cuts, "bytes": r.bytes, "virtual_seconds": r.virtual_seconds}
            for r in run.records
        ],
        "virtual_seconds": sum(r.virtual_seconds or 0.0 for r in run.records) if machines else None,
    }
    if codecs:
        with console.status("trying codecs"):
            trials = try_codecs(assemble(job, Console(quiet=True)))
        console.print(tables.codecs_table(trials))
        plan["codecs"] = [asdict(trial) for trial in trials]
    elif job.splits_model and job.codec is None:
        console.print("Codecs: `splitft plan JOB --codecs` loads the weights and prints what each one loses.")
    if folder:
        cuts_picture(rows, folder / "plan.png")
        write_atomically(folder / "plan.json", strict_json(plan, indent=1))
        console.print(f"Plan in {folder}: plan.json, plan.png", highlight=False)
    return plan
