"""The virtual clock: hears every message of a run in one process, and tells what it would have taken.

It reads sizes and shapes, never contents, and it never sleeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

from splitft.common.state import State
from splitft.devices.costs import ModelCosts
from splitft.devices.device import Device
from splitft.devices.simulate import ClientTrace, RoundTimes, StepTrace, batch_shape, simulate_round
from splitft.devices.steps import StepSeconds, step_work
from splitft.job.settings import CostSettings
from splitft.wire.ledger import Direction
from splitft.wire.messages import (
    Activations,
    AdapterDown,
    AdapterUp,
    Gradients,
    Message,
    OptimizerState,
    TailGradients,
    TrunkOutput,
    wire_size,
)

_MOST_PAIRS = 32  # clients up to which waiting is recorded by pairs


class VirtualClock:
    """Times the rounds of training; evaluation takes no virtual time.

    Adapters that are handed out after a client has trained, for evaluation, would be on their way before it
    trains next: their download counts in the client's next round of training, as does the optimizer state
    that it sends back then. devices: of every client that trains.
    """

    def __init__(
        self, costs: ModelCosts, job: CostSettings, devices: Mapping[str, Device], server: Device
    ) -> None:
        self.costs = costs
        self.job = job
        self.devices = devices
        self.server = server
        self._cuts: dict[str, int] = {}
        self._now: dict[str, ClientTrace] = {}  # messages of a client since its last round was closed
        self._next: dict[str, ClientTrace] = {}
        self._work = cache(partial(step_work, costs, job))

    def on_message(self, client: str, direction: Direction, message: Message) -> None:
        """Hear one message between a client and the server."""
        size = sum(wire_size(message))
        now = self._now.setdefault(client, ClientTrace(client))
        coming_round = self._next if now.steps else self._now
        coming = coming_round.get(client, ClientTrace(client))
        match message:
            case AdapterDown():
                down = coming.adapter_down_bytes + size
                coming_round[client] = replace(coming, adapter_down_bytes=down)
                if not now.steps:
                    self._cuts[client] = message.cut
            case OptimizerState():
                coming_round[client] = replace(coming, state_up_bytes=coming.state_up_bytes + size)
            case AdapterUp():
                self._now[client] = replace(now, adapter_up_bytes=now.adapter_up_bytes + size)
            case Activations(train=True):
                now.steps.append(self._step(message.lengths, size))
            case TrunkOutput(train=True) | Gradients():
                now.steps[-1].down_bytes.append(size)
            case TailGradients():
                now.steps[-1].up_bytes.append(size)

    def on_local_step(self, client: str, lengths: Sequence[int]) -> None:
        """Hear of a micro-batch of these lengths that a client computes on a whole model of its own."""
        self._cuts[client] = len(self.costs.blocks)
        self._now.setdefault(client, ClientTrace(client)).steps.append(self._step(lengths))

    def state(self) -> State:
        """Return what was heard since the last round was closed, as a checkpoint holds it."""
        heard = {name: [now.adapter_down_bytes, now.state_up_bytes] for name, now in self._now.items()}
        return {"cuts": self._cuts, "heard": heard}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`."""
        self._cuts = dict(state["cuts"])
        self._next.clear()
        self._now.clear()
        for name, (down, state_up) in state["heard"].items():
            self._now[name] = ClientTrace(name, adapter_down_bytes=down, state_up_bytes=state_up)

    def close_round(self, members: Sequence[str]) -> RoundTimes:
        """Return the times of the round that these clients trained in, and start the next one."""
        traces = []
        for name in members:
            heard = self._now.get(name, ClientTrace(name))
            traces.append(replace(heard, cut=self._cuts.get(name, 0)))
            self._now[name] = self._next.pop(name, ClientTrace(name))
        return simulate_round(
            traces,
            self.devices,
            self.server,
            self._timing,
            order=self.job.order,
            server_adapter=self.job.server_adapter,
            pairs=len(members) <= _MOST_PAIRS,
        )

    def _step(self, lengths: Sequence[int], *up: int) -> StepTrace:
        return StepTrace(*batch_shape(lengths, self.job.without_padding), list(up))

    def _timing(self, trace: ClientTrace, step: StepTrace) -> StepSeconds:
        device = self.devices[trace.name]
        return self._work(trace.cut).seconds(step.rows, step.width, device, self.server)
