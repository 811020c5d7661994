"""Costs of every cut, and the starting cuts of every policy. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from splitft.cuts import Observation, decide
from splitft.cuts.registry import CUT_POLICIES
from splitft.data import ClientData, first_lengths
from splitft.devices.costs import ModelCosts
from splitft.devices.memory import client_memory, server_memory
from splitft.devices.simulate import ClientTrace, RoundTimes, StepTrace, batch_shape, simulate_round
from splitft.devices.steps import StepSeconds, batch_bytes, step_work
from splitft.errors import JobError
from splitft.job.settings import CostSettings
from splitft.lora.ranks import held_blocks
from splitft.running.machines import Machines


@dataclass(frozen=True)
class CutCost:
    """All clients at one cut. Bytes are a client's mean, of training and adapters."""

    cut: int
    client_parameters: int  # trained on a client
    client_memory_bytes: int
    server_memory_bytes: int
    step_bytes_up: float
    step_bytes_down: float
    round_bytes_up: float
    round_bytes_down: float
    round_seconds: float | None  # of the whole cohort on the job's devices; None without
    slowest_client: str | None  # the last to finish; None without devices


Shape = tuple[float, float, int]  # (rows, width, tokens) of a micro-batch, see `batch_shape`
Drawn = Mapping[str, Sequence[Shape]]  # {client: its first round}


def first_round(job: CostSettings, data: Sequence[ClientData]) -> Drawn:
    """Return the shapes of every micro-batch of the clients' first round."""
    return {
        client.name: [
            (*batch_shape(batch.tolist(), job.without_padding), int(batch.sum()))
            for batch in first_lengths(job, client.name, client.train)
        ]
        for client in data
    }


def trace_of(
    job: CostSettings, costs: ModelCosts, name: str, cut: int, drawn: Sequence[Shape]
) -> ClientTrace:
    """Return a client's round at a cut: its batches, and its adapters down and up, without headers."""
    held = held_blocks(job, len(costs.blocks), cut)
    ranks = held.ranks(job)
    adapter = 4 * sum(costs.blocks[b].adapter_parameters(ranks[b]) for b in (*held.front, *held.tail))
    steps = [StepTrace(rows, width, *batch_bytes(costs, job, tokens)) for rows, width, tokens in drawn]
    return ClientTrace(name, cut, adapter, steps, adapter)


def round_of(job: CostSettings, machines: Machines, traces: Sequence[ClientTrace]) -> RoundTimes:
    """Return the simulated times of a round with these traces."""
    works = {cut: step_work(machines.costs, job, cut) for cut in {trace.cut for trace in traces}}

    def timing(trace: ClientTrace, step: StepTrace) -> StepSeconds:
        device = machines.clients[trace.name]
        return works[trace.cut].seconds(step.rows, step.width, device, machines.server)

    order, adapter = job.order, job.server_adapter
    return simulate_round(
        traces, machines.clients, machines.server, timing, order=order, server_adapter=adapter, pairs=False
    )


def cut_costs(job: CostSettings, costs: ModelCosts, machines: Machines | None, drawn: Drawn) -> list[CutCost]:
    """Return a row for every cut that the model allows."""
    rows = []
    for cut in range(1, len(costs.blocks) - job.num_tail_blocks):
        traces = [trace_of(job, costs, name, cut, each) for name, each in drawn.items()]
        up = float(np.mean([sum(sum(step.up_bytes) for step in trace.steps) for trace in traces]))
        down = float(np.mean([sum(sum(step.down_bytes) for step in trace.steps) for trace in traces]))
        adapter = traces[0].adapter_up_bytes
        times = round_of(job, machines, traces) if machines else None
        rows.append(
            CutCost(
                cut,
                client_parameters=adapter // 4,
                client_memory_bytes=client_memory(costs, job, cut).total,
                server_memory_bytes=server_memory(costs, job, [cut] * len(traces)).total,
                step_bytes_up=up / job.local_steps,
                step_bytes_down=down / job.local_steps,
                round_bytes_up=up + adapter,
                round_bytes_down=down + adapter,
                round_seconds=times.seconds if times else None,
                slowest_client=times.waited_for if times else None,
            )
        )
    return rows


@dataclass(frozen=True)
class PolicyStart:
    """The cuts of a policy in round 1, and the seconds of that round; or the problem."""

    policy: str
    cuts: dict[str, int]
    round_seconds: float | None
    problem: str | None = None


def policy_starts(
    job: CostSettings, observation: Observation, machines: Machines | None, drawn: Drawn
) -> list[PolicyStart]:
    """Return the start of every policy, the job's own first. Accuracies are not known yet."""
    own = job.cut_policy.method
    names = [own, *(name for name in CUT_POLICIES.names() if name not in (own, "schedule"))]
    starts = []
    for name in names:
        config = job.cut_policy.model_copy(update={"method": name})
        try:
            cuts = decide(name, config, observation).cuts
        except JobError as error:
            starts.append(PolicyStart(name, {}, None, str(error)))
            continue
        seconds = None
        if machines:
            traces = [trace_of(job, machines.costs, own, cuts[own], each) for own, each in drawn.items()]
            seconds = round_of(job, machines, traces).seconds
        starts.append(PolicyStart(name, cuts, seconds))
    return starts
