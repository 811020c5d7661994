"""The kit of numbers: parts that count in the place of computing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from simulation.kit import Around
from simulation.modes import Mode
from simulation.standin import BLOCKS, EVAL_ROWS, LAYOUT, WIDTH, StandInClient, StandInServer
from simulation.standin_whole import StandInWholeClient
from splitft import Job
from splitft.client.client import ClientRole
from splitft.common.state import State
from splitft.engines.network.members import Gate
from splitft.engines.network.request_gate import RequestGate
from splitft.engines.network.site import Joined
from splitft.history import RoundRecord
from splitft.job.site_policy import SitePolicy
from splitft.server.server import Server
from splitft.wire.channel import Channel
from splitft.wire.messages import AdapterDown, Message


class Fixed:
    """Cuts that follow from the round alone."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode

    def decide(self, round_: int, last: RoundRecord | None) -> dict[str, int]:
        return self._mode.cuts_of(round_)

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None: ...


class NumberKit:
    """A `Kit` without a model."""

    layout, num_blocks, width = LAYOUT, BLOCKS, WIDTH
    facts: ClassVar[dict[str, str]] = {}

    def policy(self, mode: Mode) -> Fixed:
        return Fixed(mode)

    def server(self, job: Job, around: Around) -> StandInServer:
        return StandInServer(job, around.log, around.averager, list(around.roster))

    def gate(self, job: Job, server: Server, channels: Mapping[str, Channel], only_digests: bool) -> Gate:
        def unpacked(name: str, message: Message) -> Message:
            message = channels[name].unpack(message)
            if name not in server.coordinator.holdings:
                raise ValueError("it came before anything was handed out")
            return message

        return unpacked

    def joined(self, name: str, job: Job, policy: SitePolicy, folder: Path) -> Joined:
        client: Any = StandInClient(name, job) if job.splits_model else StandInWholeClient(name, job)
        cuts = range(1, BLOCKS) if job.splits_model else (BLOCKS,)
        gate = RequestGate(job, policy, BLOCKS, cuts, EVAL_ROWS)
        return Joined(client, Channel(job, WIDTH, client.memory), gate, "digest", 1 << 20)

    def check_adapter(self, policy: SitePolicy, client: ClientRole, message: AdapterDown) -> None: ...
