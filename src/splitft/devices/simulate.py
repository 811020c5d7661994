"""The time of a round, simulated event by event: clients compute and send, one server works them off. (ours)

Deterministic; it never sleeps. Each client goes through the same script: download of its adapters; for every
leg of every step computing, upload, the server's work, download; the last backward; upload of its adapter.
What differs is how the server takes clients on (`splitft.devices.schedules`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from splitft.devices.device import Device, transfer_seconds
from splitft.devices.schedules import Leg, Outcome, Script, barriers, queue, turns
from splitft.devices.steps import StepSeconds
from splitft.devices.times import ClientTimes, RoundTimes
from splitft.devices.trace import ClientTrace, StepTrace

Timing = Callable[[ClientTrace, StepTrace], StepSeconds]


def simulate_round(
    traces: Sequence[ClientTrace],
    devices: Mapping[str, Device],
    server: Device,
    timing: Timing,
    *,
    order: Literal["parallel", "turns"] = "parallel",
    server_adapter: Literal["per_client", "shared"] = "per_client",
    pairs: bool = True,
) -> RoundTimes:
    """Return when a round ends and where its time goes.

    traces: in the clients' order, which settles ties. timing: seconds of a step (`StepWork.seconds`). turns:
    one client after another. parallel: with per_client the server works off one queue in order of arrival;
    with shared it starts a step when all members are there, and answers all after it. pairs: fill
    `queued_behind`, which is quadratic in the clients. Raises ValueError on a step whose legs and messages do
    not match.
    """
    scripts = [script_of(trace, devices[trace.name], server, timing) for trace in traces]
    if order == "turns":
        outcome = turns(scripts, pairs)
    elif server_adapter == "shared":
        outcome = barriers(scripts, pairs)
    else:
        outcome = queue(scripts, pairs)
    return round_times(scripts, outcome)


def script_of(trace: ClientTrace, device: Device, server: Device, timing: Timing) -> Script:
    """Return the seconds of all that a client does in a round, in order.

    The backward of a step and the forward of the next are one stretch of computing.
    """
    start = transfer_seconds(server, device, trace.adapter_down_bytes)
    start += transfer_seconds(device, server, trace.state_up_bytes)
    legs: list[Leg] = []
    computing = 0.0
    for step in trace.steps:
        seconds = timing(trace, step)
        if not len(step.up_bytes) == len(step.down_bytes) == len(seconds.server) == len(seconds.client) - 1:
            raise ValueError(f"{trace.name}: {len(step.up_bytes)} messages up, {len(step.down_bytes)} down")
        for own, theirs, up, down in zip(
            seconds.client, seconds.server, step.up_bytes, step.down_bytes, strict=False
        ):
            up_seconds = transfer_seconds(device, server, up)
            legs.append((computing + own, up_seconds, theirs, transfer_seconds(server, device, down)))
            computing = 0.0
        computing += seconds.client[-1]
    return Script(
        trace.name, start, legs, computing, transfer_seconds(device, server, trace.adapter_up_bytes)
    )


def round_times(scripts: Sequence[Script], outcome: Outcome) -> RoundTimes:
    """Put scripts and schedule together; those who finish early idle until the end."""
    end = max(outcome.finished, default=0.0)
    clients = {}
    for index, script in enumerate(scripts):
        finished = outcome.finished[index]
        clients[script.name] = ClientTimes(
            compute=script.compute,
            transfer=script.transfer,
            server=script.server,
            queued=outcome.queued[index],
            idle=outcome.idle[index] + (end - finished),
            finished=finished,
        )
    names = [script.name for script in scripts]
    return RoundTimes(
        seconds=end,
        waited_for=names[outcome.finished.index(end)] if names else None,
        server_seconds=sum(script.server for script in scripts),
        clients=clients,
        queued_behind={
            names[index]: {names[other]: seconds for other, seconds in behind.items()}
            for index, behind in outcome.behind.items()
        },
    )
