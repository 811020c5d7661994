"""Whether the devices of a job hold what it asks of them. (ours)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from splitft.assemble import Assembly, stated_cuts
from splitft.devices import client_memory, server_memory
from splitft.errors import JobError
from splitft.job import Job

if TYPE_CHECKING:
    from splitft.parties import Machines


def cuts_in_memory(start: Assembly, most: Mapping[str, int], machines: Machines) -> dict[str, int]:
    """Return the cuts to begin with; where a policy moves them from the first round on, no more than fit.

    Raises JobError where memory does not hold what the job states.
    """
    job, stated = start.job, stated_cuts(start.job, start.names)
    explicit = job.method == "same_split" or job.cut_policy.method in ("fixed", "schedule")
    if not explicit or (job.method == "splitft" and "1" in (job.cut_policy.schedule or {})):
        stated["cuts"] = {name: min(cut, most[name]) for name, cut in stated["cuts"].items()}
    for key, cuts in stated.items():
        _check_clients(job, key, cuts, most, machines)
    for chosen in stated.values() if explicit else [most]:
        _check_server(job, chosen, machines)
    return stated["cuts"]


def _check_clients(
    job: Job, key: str, cuts: Mapping[str, int], most: Mapping[str, int], machines: Machines
) -> None:
    too_much = [name for name, cut in cuts.items() if cut > most[name]]
    if too_much:
        name = too_much[0]
        device, needed = machines.clients[name], client_memory(machines.costs, job, cuts[name]).total
        raise JobError(
            f"{key}: client {name} ({device.name}, {device.memory_bytes / 1e9:.3g} GB) cannot "
            f"hold {cuts[name]} blocks, which need about {needed / 1e9:.3g} GB: set its cut to {most[name]} "
            "or lower, or give it another device"
        )


def _check_server(job: Job, cuts: Mapping[str, int], machines: Machines) -> None:
    needed, server = server_memory(machines.costs, job, cuts.values()).total, machines.server
    if needed > server.memory_bytes:
        shared = "" if job.server_adapter == "shared" else "set server_adapter: shared, "
        raise JobError(
            f"server_device {server.name} has {server.memory_bytes / 1e9:.3g} GB of memory, but the trunks "
            f"of {len(cuts)} clients need about {needed / 1e9:.3g} GB: name a larger device, {shared}raise "
            "the cuts, or lower max_length or per_device_train_batch_size"
        )
