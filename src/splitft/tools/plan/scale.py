"""One round of a cohort far larger than this machine: clients drawn from a mix of devices. (ours)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitft.common.seeds import numpy_generator
from splitft.cuts import ClientState, Observation, decide
from splitft.data import ClientData
from splitft.devices import (
    Device,
    ModelCosts,
    RoundTimes,
    available_members,
    batch_bytes,
    batch_shape,
    client_state_seconds,
    draw_devices,
    highest_cut_in_memory,
    resolve_device,
    server_memory,
)
from splitft.devices.steps import StateSeconds
from splitft.errors import JobError
from splitft.job import Job
from splitft.running.machines import Machines
from splitft.tools.plan.cuts import round_of, trace_of


@dataclass(frozen=True)
class ScalePlan:
    """One round. devices, cuts, finished (seconds): one entry for each client that is there."""

    clients: int
    present: int
    devices: list[str]
    cuts: list[int]
    finished: NDArray[np.float64]
    times: RoundTimes
    bytes_up: int
    bytes_down: int
    server_memory_bytes: int

    @property
    def server_load(self) -> float:
        """Share of the round in which the server computes."""
        return self.times.server_seconds / self.times.seconds if self.times.seconds else 0.0


def parse_mix(text: str) -> dict[str, float]:
    """Read phone=0.6,laptop=0.4. Raises JobError."""
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = (word.strip() for word in part.partition("="))
        if name in mix:
            raise JobError(f"--mix {text}: {name} is given twice; give each device one share")
        try:
            mix[name] = float(share)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise JobError(f"--mix {text}: write devices with their shares: phone=0.6,laptop=0.4")
    return mix


def draw_cohort(job: Job, count: int, mix: Mapping[str, float]) -> dict[str, Device]:
    """Return {client: device} of `count` clients whose devices are drawn from `mix`.

    Raises JobError on a mix that is none, and on devices that nobody knows, whatever their share.
    """
    kinds = {name: resolve_device(name, job.device_profiles, key="--mix") for name in mix}
    drawn = draw_devices(mix, count, job.seed)
    return {f"client-{i}": kinds[kind] for i, kind in enumerate(drawn)}


def plan_scale(
    job: Job, costs: ModelCosts, data: Sequence[ClientData], devices: Mapping[str, Device]
) -> ScalePlan:
    """Plan the first round of clients with these devices.

    Each client's batches are drawn from all training rows of the job. Cuts are those with which the job's
    policy would start. Raises JobError on a device or a policy that does not fit.
    """
    names = list(devices)
    machines = Machines(devices, resolve_device(job.server_device, job.device_profiles), costs)
    there = available_members(devices, names, job.seed, 1)
    if job.clients_per_round and job.clients_per_round < len(there):
        chosen = numpy_generator(job.seed, "cohort", 1).choice(
            len(there), job.clients_per_round, replace=False
        )
        there = [there[i] for i in sorted(chosen.tolist())]
    if not there:
        raise JobError("no client is there in the first round: raise the availability of the devices")
    batches = _draw_batches(job, data, len(there))
    cuts = _starting_cuts(job, machines, there, batches)
    traces = [
        trace_of(job, costs, name, cuts[name], [(r, w, int(t)) for r, w, t in each.tolist()])
        for name, each in zip(there, batches, strict=True)
    ]
    times: RoundTimes = round_of(job, machines, traces)
    return ScalePlan(
        len(names),
        len(there),
        [devices[name].name for name in there],
        [cuts[name] for name in there],
        np.asarray([times.clients[name].finished for name in there]),
        times,
        sum(t.adapter_up_bytes + sum(sum(step.up_bytes) for step in t.steps) for t in traces),
        sum(t.adapter_down_bytes + sum(sum(step.down_bytes) for step in t.steps) for t in traces),
        server_memory(costs, job, [cuts[name] for name in there]).total,
    )


def _draw_batches(job: Job, data: Sequence[ClientData], clients: int) -> NDArray[np.float64]:
    """(clients, micro-batches, 3): rows, width (`batch_shape`) and tokens, drawn from all clients' rows."""
    lengths = np.concatenate([client.train.lengths for client in data])
    steps = job.local_steps * job.gradient_accumulation_steps
    rows = min(job.per_device_train_batch_size, len(lengths))
    chosen = numpy_generator(job.seed, "plan").integers(len(lengths), size=(clients, steps, rows))
    drawn = lengths[chosen].tolist()
    shapes = [[(*batch_shape(batch, job.padding_free), sum(batch)) for batch in each] for each in drawn]
    return np.asarray(shapes, dtype=np.float64)


def _starting_cuts(
    job: Job, machines: Machines, names: Sequence[str], batches: NDArray[np.float64]
) -> dict[str, int]:
    """The cuts of the job's policy in round 1; the job's `cuts`, or the mean of a list, before that."""
    blocks = len(machines.costs.blocks) - job.num_tail_blocks
    first = job.cuts if isinstance(job.cuts, int) else round(sum(job.cuts) / len(job.cuts))
    mean = batches.reshape(-1, 3).mean(0)
    rows, width, tokens = (mean if job.padding_free else np.round(mean)).tolist()
    up, down = batch_bytes(machines.costs, job, round(tokens))
    known: dict[Device, tuple[int, StateSeconds]] = {}
    for device in dict.fromkeys(machines.clients[name] for name in names):
        known[device] = highest_cut_in_memory(machines.costs, job, device), client_state_seconds(
            machines.costs, job, device, machines.server,
            rows=rows, width=width, up_bytes=up, down_bytes=down,
        )  # fmt: skip
    states = []
    for name in names:
        most, seconds = known[machines.clients[name]]
        states.append(ClientState(name, min(first, most), most, None, **seconds))
    observation = Observation(1, blocks, tuple(states), job.order, job.server_adapter)
    method = "fixed" if job.method == "same_split" else job.cut_policy.method
    return dict(decide(method, job.cut_policy, observation).cuts)
