"""What each cut would cost, and the cuts that each policy would start with. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from splitft.cuts import Observation, decide
from splitft.cuts.planner import CutPlanner
from splitft.cuts.registry import policy_names
from splitft.data import ClientData, first_lengths
from splitft.devices import (
    ClientTrace,
    ModelCosts,
    StepTrace,
    batch_bytes,
    batch_shape,
    client_memory,
    server_memory,
    simulate_round,
    step_work,
)
from splitft.errors import JobError
from splitft.job import CutPolicyConfig, Job
from splitft.lora.ranks import held_blocks
from splitft.running.machines import Machines


@dataclass(frozen=True)
class CutCost:
    """All clients at one cut. Bytes of one step and of one round are a client's mean, training and adapters.

    round_seconds: of the whole cohort on the job's devices, slowest_client: who finishes last; None without.
    """

    cut: int
    client_parameters: int  # trained on a client
    client_memory_bytes: int
    server_memory_bytes: int
    step_bytes_up: float
    step_bytes_down: float
    round_bytes_up: float
    round_bytes_down: float
    round_seconds: float | None
    slowest_client: str | None


def batches(job: Job, data: ClientData) -> list[tuple[float, float, int]]:
    """Return (rows, width, tokens) of the micro-batches of a client's first round (`batch_shape`)."""
    drawn = first_lengths(job, data.name, data.train)
    return [(*batch_shape(batch.tolist(), job.padding_free), int(batch.sum())) for batch in drawn]


def trace_of(
    job: Job, costs: ModelCosts, name: str, cut: int, drawn: Sequence[tuple[float, float, int]]
) -> ClientTrace:
    """Return a client's round at a cut: its batches, and its adapters down and up, without headers."""
    held = held_blocks(job, len(costs.blocks), cut)
    ranks = held.ranks(job)
    adapter = 4 * sum(ranks[b] * costs.blocks[b].lora_parameters for b in (*held.front, *held.tail))
    steps = tuple(StepTrace(rows, width, *batch_bytes(costs, job, tokens)) for rows, width, tokens in drawn)
    return ClientTrace(name, cut, adapter, steps, adapter)


def round_of(job: Job, machines: Machines, traces: Sequence[ClientTrace], *, pairs: bool = False) -> Any:
    """Return the simulated times of a round in which clients do what `traces` say."""
    works = {cut: step_work(machines.costs, job, cut) for cut in {trace.cut for trace in traces}}

    def timing(trace: ClientTrace, step: StepTrace) -> Any:
        device = machines.clients[trace.name]
        return works[trace.cut].seconds(step.rows, step.width, device, machines.server)

    order, adapter = job.order, job.server_adapter
    return simulate_round(
        traces, machines.clients, machines.server, timing, order=order, server_adapter=adapter, pairs=pairs
    )


def cut_costs(
    job: Job, costs: ModelCosts, machines: Machines | None, data: Sequence[ClientData]
) -> list[CutCost]:
    """Return a row for every cut that the model allows."""
    drawn = {client.name: batches(job, client) for client in data}
    return [
        _cut_cost(job, costs, machines, drawn, cut) for cut in range(1, len(costs.blocks) - job.tail_blocks)
    ]


def _cut_cost(
    job: Job, costs: ModelCosts, machines: Machines | None, drawn: Mapping[str, Any], cut: int
) -> CutCost:
    traces = [trace_of(job, costs, name, cut, each) for name, each in drawn.items()]
    up = float(np.mean([sum(sum(step.up_bytes) for step in trace.steps) for trace in traces]))
    down = float(np.mean([sum(sum(step.down_bytes) for step in trace.steps) for trace in traces]))
    adapter = traces[0].adapter_up_bytes
    times = round_of(job, machines, traces) if machines else None
    return CutCost(
        cut,
        adapter // 4,
        client_memory(costs, job, cut).total,
        server_memory(costs, job, [cut] * len(traces)).total,
        up / job.local_steps,
        down / job.local_steps,
        up + adapter,
        down + adapter,
        times.seconds if times else None,
        times.waited_for if times else None,
    )


@dataclass(frozen=True)
class PolicyStart:
    """The cuts that a policy would start with, and the seconds of its first round; or why it cannot say."""

    policy: str
    cuts: dict[str, int]
    round_seconds: float | None
    problem: str | None = None


def policy_starts(
    job: Job, planner: CutPlanner, machines: Machines | None, data: Sequence[ClientData]
) -> list[PolicyStart]:
    """Return what every policy would start with, the job's own first. Accuracies are not known yet."""
    own = job.cut_policy.method
    names = [own, *(name for name in policy_names() if name not in (own, "schedule"))]
    drawn = {client.name: batches(job, client) for client in data}
    return [_policy_start(job, name, planner.observe(1), machines, drawn) for name in names]


def _policy_start(
    job: Job, name: str, observation: Observation, machines: Machines | None, drawn: Mapping[str, Any]
) -> PolicyStart:
    settings = job.cut_policy.model_dump() | {"method": name}
    try:
        cuts = decide(name, CutPolicyConfig(**settings), observation).cuts
    except JobError as error:
        return PolicyStart(name, {}, None, str(error))
    if machines is None:
        return PolicyStart(name, cuts, None)
    traces = [trace_of(job, machines.costs, client, cuts[client], each) for client, each in drawn.items()]
    return PolicyStart(name, cuts, round_of(job, machines, traces).seconds)
