"""The devices of a run: their costs, the cuts that their memory holds, the seconds that they predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from splitft.data import ClientData, first_lengths
from splitft.devices.costs import ModelCosts
from splitft.devices.device import Device
from splitft.devices.measure import model_costs
from splitft.devices.memory import client_memory, highest_cut_in_memory, server_memory
from splitft.devices.profile import client_devices, resolve_device
from splitft.devices.simulate import batch_shape
from splitft.devices.steps import StateSeconds, batch_bytes, client_state_seconds
from splitft.errors import JobError
from splitft.job import Job
from splitft.running.model import inject_adapters, load_base
from splitft.running.prepare import Assembly, stated_cuts
from splitft.weights.quantized import quantization


@dataclass(frozen=True)
class Machines:
    """The devices of a job's clients and server, and what the model costs them."""

    clients: Mapping[str, Device]
    server: Device
    costs: ModelCosts


def machines_of(start: Assembly) -> Machines | None:
    """Return the devices of a job, None where it states none. Raises JobError on unknown ones."""
    job = start.job
    if job.devices is None:
        return None
    server = resolve_device(job.server_device, job.device_profiles)
    return Machines(client_devices(job, start.names), server, model_costs(_plain_model(start)))


def _plain_model(start: Assembly) -> Any:
    """Return the model of a run, or one of shapes where its weights are packed, which hides their sizes."""
    if quantization(start.model.config) is None:
        return start.model
    slots, shapes = start.split_model.slots, load_base(start.job, Console(quiet=True), weights=False)
    inject_adapters(start.job, shapes, (slots.targets, slots.excluded))
    return shapes


def highest_cuts(start: Assembly, machines: Machines | None) -> dict[str, int]:
    """Return the most blocks that each client may hold: with a device, what its memory holds."""
    job = start.job
    if machines is None:
        return dict.fromkeys(start.names, start.num_blocks - job.num_tail_blocks - 1)
    costs, devices = machines.costs, machines.clients
    return {name: highest_cut_in_memory(costs, job, device) for name, device in devices.items()}


def predicted_seconds(job: Job, data: ClientData, machines: Machines) -> StateSeconds:
    """Return the seconds of one step of a client on its device (`ClientState`), for its typical batch.

    That is the mean of the batches of its first round: rows as they are, padded to the mean longest row, or
    without padding (`batch_shape`).
    """
    batches = first_lengths(job, data.name, data.train)
    tokens = float(np.mean([batch.sum() for batch in batches]))
    shape: Any = np.mean([batch_shape(batch.tolist(), job.without_padding) for batch in batches], axis=0)
    rows, width = (shape if job.without_padding else np.round(shape)).tolist()
    up, down = batch_bytes(machines.costs, job, round(tokens))
    device = machines.clients[data.name]
    return client_state_seconds(
        machines.costs, job, device, machines.server, rows=rows, width=width, up_bytes=up, down_bytes=down
    )


def cuts_in_memory(start: Assembly, most: Mapping[str, int], machines: Machines) -> dict[str, int]:
    """Return the cuts to begin with; where a policy moves them from the first round on, no more than fit.

    Raises JobError where memory does not hold what the job states.
    """
    job, stated = start.job, stated_cuts(start.job, start.names)
    explicit = job.method == "same_split" or job.cut_policy.method in ("fixed", "schedule")
    if not explicit or (job.method == "splitft" and "1" in (job.cut_policy.schedule or {})):
        stated["cuts"] = {name: min(cut, most[name]) for name, cut in stated["cuts"].items()}
    # What a client's memory holds.
    for key, cuts in stated.items():
        if too_much := [name for name, cut in cuts.items() if cut > most[name]]:
            name = too_much[0]
            device, needed = machines.clients[name], client_memory(machines.costs, job, cuts[name]).total
            raise JobError(
                f"{key}: client {name} ({device.name}, {device.memory_bytes / 1e9:.3g} GB) cannot hold "
                f"{cuts[name]} blocks, which need about {needed / 1e9:.3g} GB: set its cut to {most[name]} "
                "or lower, or give it another device"
            )
    # What the server's memory holds.
    for chosen in stated.values() if explicit else [most]:
        needed, server = server_memory(machines.costs, job, chosen.values()).total, machines.server
        if needed > server.memory_bytes:
            shared = "" if job.server_adapter == "shared" else "set server_adapter: shared, "
            raise JobError(
                f"server_device {server.name} has {server.memory_bytes / 1e9:.3g} GB of memory, but the "
                f"trunks of {len(chosen)} clients need about {needed / 1e9:.3g} GB: name a larger device, "
                f"{shared}raise the cuts, or lower max_length or per_device_train_batch_size"
            )
    return stated["cuts"]
