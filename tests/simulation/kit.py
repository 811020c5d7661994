"""What computes in a schedule: chains of numbers, or a real model. All else of a run is the same for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from simulation.modes import ALL, Mode
from splitft import Job
from splitft.client.client import ClientRole
from splitft.common.state import State
from splitft.engines.network.members import Gate
from splitft.engines.network.roster import Roster
from splitft.engines.network.secure_sum import SecureSum
from splitft.engines.network.site import Joined
from splitft.engines.network.timing import StepTimes
from splitft.history import RoundRecord
from splitft.job.site_policy import SitePolicy
from splitft.lora.blocks import Layout
from splitft.server.coordinator import RemoteAverage
from splitft.server.server import Server
from splitft.wire.channel import Channel
from splitft.wire.messages import AdapterDown, HeldOut


@dataclass(frozen=True)
class Around:
    """What a server's computing reads and calls of the other parts of its process.

    Attributes:
        log: Receives the lines of `steps.jsonl`.
        notice: Prints one line.
        averager: The aggregator's average, if the job has one.
        held_out: Returns a batch of held-out ids of each client.
        blame: Expels a client, for a reason.
        secure: The masked sums, if the job has them; `averager` is then theirs.
    """

    log: Callable[[dict[str, Any]], None]
    notice: Callable[[str], None]
    averager: RemoteAverage | None
    roster: Roster
    times: StepTimes
    held_out: Callable[[], Mapping[str, HeldOut]]
    blame: Callable[[str, str], None]
    secure: SecureSum | None = None


class Policy(Protocol):
    """Decides the cuts, and has a state that a checkpoint holds."""

    def decide(self, round_: int, last: RoundRecord | None) -> dict[str, int]: ...
    def state(self) -> State: ...
    def load_state(self, state: State) -> None: ...


class Kit(Protocol):
    """The parts of a run that compute.

    Attributes:
        layout: Tensors of each block's adapter.
        width: Hidden size.
        facts: What clients must have as the server has it.
    """

    layout: Layout
    num_blocks: int
    width: int
    facts: dict[str, str]

    def policy(self, mode: Mode) -> Policy:
        """Return what decides the cuts."""

    def server(self, job: Job, around: Around) -> Server:
        """Return a server as of the start of a run."""

    def gate(self, job: Job, server: Server, channels: Mapping[str, Channel], only_digests: bool) -> Gate:
        """Return what unpacks and checks the messages of clients.

        Args:
            only_digests: Adapters go to the aggregator.
        """

    def joined(self, name: str, job: Job, policy: SitePolicy, folder: Path) -> Joined:
        """Return a client as of the start of a run. folder: its own."""

    def check_adapter(self, policy: SitePolicy, client: ClientRole, message: AdapterDown) -> None:
        """Check what a client's front computes with the adapters of a hand-out. Raises PolicyError."""


def kit_of(mode: Mode) -> Kit:
    """Return the kit of a mode; it is made once."""
    return _kit(mode.name)


@cache
def _kit(name: str) -> Kit:
    from simulation.counting import NumberKit
    from simulation.real import RealKit  # imports transformers

    mode = ALL[name]
    return RealKit(mode.job) if mode.real else NumberKit()
