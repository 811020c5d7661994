"""Per-client trace of a round, the sizes that time depends on, and the simulation of its seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from splitft.devices.device import Device, transfer_seconds
from splitft.devices.schedules import Leg, Timeline, barriers, queue, turns
from splitft.devices.steps import StepSeconds

PARTS = ("compute", "transfer", "server", "queued", "idle")  # of a client's seconds; they sum to the round's


def batch_shape(lengths: Sequence[int], padding_free: bool) -> tuple[float, float]:
    """Return (rows, width) of what is computed of a batch.

    Without padding these are no whole numbers: rows · width are the tokens, rows · width² the pairs of tokens
    of a row.
    """
    if not padding_free:
        return len(lengths), max(lengths)
    tokens = sum(lengths)
    width = sum(length**2 for length in lengths) / tokens
    return tokens / width, width


@dataclass(frozen=True)
class StepTrace:
    """One micro-batch: its `batch_shape`, and the bytes of its legs to the server and back.

    One leg with labels: server, two with labels: client, none where the whole model is on the client.
    """

    rows: float
    width: float
    up_bytes: list[int] = field(default_factory=list)
    down_bytes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class ClientTrace:
    """A client's round. cut: its blocks; state_up_bytes: optimizer state of blocks that left it, sent first.

    A cut of all the model's blocks: the whole model is on the client.
    """

    name: str
    cut: int = 0
    adapter_down_bytes: int = 0
    steps: list[StepTrace] = field(default_factory=list)
    adapter_up_bytes: int = 0
    state_up_bytes: int = 0


@dataclass(frozen=True)
class ClientTimes:
    """Seconds of one client in a round; the first five, PARTS, sum to the round's."""

    compute: float  # on the client
    transfer: float  # on its link
    server: float  # the server's work for it
    queued: float  # the server's work for others while it waits
    idle: float  # waiting for its turn, for others to arrive, and for the round's end
    finished: float  # when its adapter has arrived at the server


@dataclass(frozen=True)
class RoundTimes:
    """A round: it ends when the last adapter has arrived.

    queued_behind: {client: {other: seconds}} of waiting, before the end, for the other's work at the server,
        arrival at a barrier, or turn.
    """

    seconds: float
    waited_for: str | None  # the client that finished last (the first of them in order); None without clients
    server_seconds: float  # the server's work
    clients: dict[str, ClientTimes]
    queued_behind: dict[str, dict[str, float]] = field(default_factory=dict)


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
    """Return the end of a round and the parts of its time.

    Args:
        traces: In the clients' order, which settles ties.
        timing: Seconds of a step (`StepWork.seconds`).
        order: turns: one client after another. parallel: all at once.
        server_adapter: In parallel with per_client, the server works off one queue in order of arrival; with
            shared it starts a step when all members are there, and answers all after it.
        pairs: Fill `queued_behind`, which is quadratic in the clients.

    Raises:
        ValueError: The legs of a step and its messages do not match.
    """
    scripts = [script_of(trace, devices[trace.name], server, timing) for trace in traces]
    if order == "turns":
        waits = turns(scripts, pairs)
    elif server_adapter == "shared":
        waits = barriers(scripts, pairs)
    else:
        waits = queue(scripts, pairs)
    # Those who finish early idle until the end.
    end = max((script.finished for script in scripts), default=0.0)
    clients = {
        s.name: ClientTimes(
            s.compute, s.transfer, s.server, s.queued, s.idle + (end - s.finished), s.finished
        )
        for s in scripts
    }
    last = next((script.name for script in scripts if script.finished == end), None)
    return RoundTimes(end, last, sum(script.server for script in scripts), clients, waits)


def script_of(trace: ClientTrace, device: Device, server: Device, timing: Timing) -> Timeline:
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
    return Timeline(
        trace.name, start, legs, computing, transfer_seconds(device, server, trace.adapter_up_bytes)
    )
