"""The parties of a run, real but for connections: what comes is a script, what is sent is kept."""

from __future__ import annotations

import copy
import hashlib
import queue
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fuzz.inputs import InputOverError
from fuzz.jobs import AGGREGATOR, BLOCKS, MODES, NAMES, QUIET, Mode, data, folder
from simulation.disk import MemoryDisk
from splitft.client.client import Client
from splitft.common.state import State
from splitft.engines.network import client_sums
from splitft.engines.network.aggregator_link import AggregatorLink
from splitft.engines.network.aggregator_process import AggregatorProcess
from splitft.engines.network.client_sums import NoSums
from splitft.engines.network.cohort import NetworkCohort
from splitft.engines.network.control import WIRE, Average, Welcome
from splitft.engines.network.conversation import Conversation
from splitft.engines.network.desk import Desk
from splitft.engines.network.faults import FaultLog
from splitft.engines.network.gate import Gate
from splitft.engines.network.members import Members
from splitft.engines.network.request_gate import RequestGate
from splitft.engines.network.roster import Roster
from splitft.engines.network.sameness import facts_of
from splitft.engines.network.secure_sum import SecureSum
from splitft.engines.network.site import Joined, Site
from splitft.engines.network.timing import StepTimes
from splitft.engines.network.transport.peers import Event
from splitft.errors import AggregatorError
from splitft.history import RoundRecord
from splitft.model.config import text_config
from splitft.round import Observer, run_rounds
from splitft.running.baselines.whole import WholeClient
from splitft.running.client_setup import ClientSetup
from splitft.running.private import kept_ledger
from splitft.running.sums import sums_of
from splitft.running.welcome import welcome_of
from splitft.server.guard import Guard
from splitft.server.parts import micro_batches
from splitft.server.probe import AdapterProbe
from splitft.server.server import Server
from splitft.weights.held import base_dtype
from splitft.wire.channel import Channel, sample_memory
from splitft.wire.ledger import Ledger
from splitft.wire.secagg import member
from splitft.wire.secagg.member import SumMember

SESSION = "session of {}"
WOKEN = Event("woken", "")
JOB_DIGEST = "digest of the job"


class Way:
    """A dialler to an aggregator. said: takes what is sent."""

    def __init__(self, said: Callable[[bytes], None], sink: Callable[[Any], None]) -> None:
        self._said, self._sink = said, sink

    def repeat(self, payload: bytes) -> None:
        if payload:
            self._said(payload)

    def limit(self, most: int) -> None: ...

    def close(self, grace: float = 0.0, *, over: bool = False) -> None: ...


class Script:
    """A listener whose clients say what is written: one event at each look."""

    port = 0

    def __init__(self) -> None:
        self.events: Any = self
        self.left: deque[Event] = deque()
        self.expelled: dict[str, str] = {}
        self.turned_away: dict[str, str] = {}
        self.from_aggregator: Callable[[bytes], None] = lambda payload: None
        self.requests: list[str] = []  # of the run in which the aggregator said what it says here
        self.asked = ""  # by the server, last

    def get(self, timeout: float | None = None) -> Event:
        if not self.left:
            self.idle()
        event = self.left.popleft()
        if event.name != AGGREGATOR:
            return event
        self.from_aggregator(self.rewritten(event.payload))
        return WOKEN

    def rewritten(self, payload: bytes) -> bytes:
        """Return what an aggregator said, as an answer to the request under way."""
        for old in self.requests:
            payload = payload.replace(old.encode(), self.asked.encode())
        return payload

    def to_aggregator(self, payload: bytes) -> None:
        """Take what the server says to the aggregator."""
        message = WIRE.decode(payload)
        if isinstance(message, Average):
            self.asked = message.request

    def get_nowait(self) -> Event:
        raise queue.Empty

    def put(self, event: Event) -> None:
        if event.kind != WOKEN.kind:
            self.left.append(event)

    def idle(self) -> None:
        """Called where nothing is left. Raises InputOverError, or puts further events."""
        raise InputOverError

    def send(self, name: str, payload: bytes, session: str | None = None) -> None: ...

    def used(self, event: Event) -> None: ...

    def expel(self, name: str, reason: str) -> None:
        self.expelled[name] = reason

    def turn_away(self, name: str, reason: str) -> None:
        self.turned_away[name] = reason


@cache
def welcome(mode: Mode) -> Welcome:
    return welcome_of(mode.start)


@dataclass
class Fixed:
    """Cuts that follow from the round alone."""

    mode: Mode

    def decide(self, round_: int, last: RoundRecord | None) -> dict[str, int]:
        return dict.fromkeys(self.mode.names, self.mode.cut_of(round_))


@dataclass
class Begin:
    """Where a run begins: at the start, or after a round. disks: of clients."""

    last: RoundRecord | None = None
    state: State = field(default_factory=dict)
    disks: dict[str, MemoryDisk] = field(default_factory=dict)

    def disk_of(self, name: str) -> MemoryDisk:
        """Return a client's disk, to be changed at will."""
        disk = MemoryDisk(lambda what: None)
        if name in self.disks:
            disk.names = dict(self.disks[name].names)
        return disk


class ServerSide:
    """A server and all behind its listener: as `running/server_side.py` puts it together."""

    def __init__(self, mode: Mode, listener: Any, kept: Path | None = None) -> None:
        start, job, self.notices = mode.start, mode.job, list[str]()
        self.mode, model, ledger = mode, start.split_model, Ledger()
        self.faults_path = kept or folder() / "faults.log"
        self.roster = Roster(mode.names, job.network, lambda: 0.0)
        times = StepTimes(job, lambda name, seconds: None)
        vocabulary = int(text_config(start.model).vocab_size)
        probe = AdapterProbe(
            model, vocabulary, job.max_length, job.without_padding, lambda: self.cohort.held_out_batches
        )
        averaging = None
        if job.network.aggregator:
            averaging = AggregatorLink(job, JOB_DIGEST, model.slots.layout, ledger)
        secure = None
        if job.secure_aggregation:
            secure = SecureSum(job, model.slots.layout, averaging, lambda line: None, goes_back=True)
        elsewhere = secure or averaging
        self.server = Server(
            model, job, start.adapter, continues=bool(job.adapter_name_or_path),
            averager=elsewhere.average if elsewhere else None,
            micro_batches=micro_batches(
                job, lambda name: self.roster[name].rows, times.parts, self.roster.there
            ),
            guard=Guard(
                probe.problem, lambda name, reason: self.members.expel(name, reason), self.notices.append,
                tries=secure is None,
            ),
            dropped=lambda: secure.dropped if secure else (),
        )  # fmt: skip
        channels = {name: Channel(job, model.width) for name in mode.names}
        gate = Gate(
            job,
            self.server.coordinator.layout,
            self.server.coordinator.holdings,
            channels,
            hidden_size=model.width,
            vocab_size=vocabulary,
            max_length=job.max_length,
            dtype=base_dtype(job, start.model.config),
            needs_ids=start.report.server_inputs == "input_ids",
            only_digests=averaging is not None,
            adapter=lambda: self.server.adapter,
        )
        said = welcome(mode)
        self.members = Members(
            self.roster,
            listener,
            ledger,
            self.server.coordinator,
            self.server.worker,
            gate.check,
            channels,
            self.notices.append,
            FaultLog(self.faults_path, self.notices.append),
            facts=facts_of(said.things, said.values),
        )
        if secure is not None:
            secure.open(self.members)
        self.cohort = NetworkCohort(self.members, job, times, averaging if secure is None else None)
        if averaging is not None:

            def dial(sink: Callable[[Any], None]) -> Any:
                listener.from_aggregator = sink
                return Way(listener.to_aggregator, sink)

            averaging.open(dial, self.members)
        self.parts: dict[str, Any] = {"server": self.server, "cohort": self.cohort, "ledger": ledger}
        self._ledger = ledger

    def rounds(self, begin: Begin) -> Iterator[RoundRecord]:
        """Run the rounds, from the start or from a state."""
        if begin.last is None:
            self.cohort.present(0)
        else:
            for name, part in self.parts.items():
                part.load_state(begin.state[name])
        job = self.mode.job
        for record in run_rounds(
            job, Fixed(self.mode), self.server, self.cohort, self._ledger, Observer(), begin.last
        ):
            self.cohort.save(record.round + 1, last=record.round == job.rounds)
            yield record

    def state(self) -> State:
        return {name: part.state() for name, part in self.parts.items()}


class Line:
    """A client's way to its server. idle: called where nothing is left for it."""

    def __init__(self, sent: Callable[[str, bytes], None], idle: Callable[[], None]) -> None:
        self.incoming: Any = self
        self.left: deque[Any] = deque()
        self._sent, self._idle = sent, idle

    def get(self, timeout: float) -> Any:
        while not self.left:
            self._idle()
        return self.left.popleft()

    def empty(self) -> bool:
        return not self.left

    def put(self, item: Any) -> None:
        self.left.append(item)

    def send(self, session: str, payload: bytes) -> None:
        self._sent(session, payload)

    def limit(self, most: int) -> None: ...

    def close(self, grace: float = 0.0, *, over: bool = False) -> None: ...


class Made:
    """A real `ClientSetup` that has read the data and loaded the blocks once: each client is a new one."""

    def __init__(self, mode: Mode, name: str) -> None:
        none: Any = lambda *given: NoSums()  # noqa: E731 - each client has its own later
        self._setup = ClientSetup(name, data(), None, None, QUIET, partial, server="127.0.0.1:1", sums=none)
        self._first = self._setup.make(welcome(mode))
        if mode.job.splits_model:
            self._setup.need(self._first.client, max(mode.cuts))

    def again(self, handed_in: Callable[[bytes], None], kept: Any) -> Again:
        return Again(copy.copy(self._setup), self._first, handed_in, kept)


class Again:
    """The setup of one client, on the data and the model of an earlier one. kept: the client's folder."""

    def __init__(
        self, setup: ClientSetup, first: Joined, handed_in: Callable[[bytes], None], kept: Any
    ) -> None:
        self._setup, self._first, self._handed_in, self.policy = setup, first, handed_in, setup.policy
        self._kept = kept
        self.need, self.facts, self.check_adapter = setup.need, setup.facts, setup.check_adapter

    def make(self, said: Welcome) -> Joined:
        first, gate = self._first.client, self._first.gate
        job, model = first.settings, first.model
        pad = 1
        client: Any
        if job.splits_model:  # type: ignore[attr-defined]
            client = Client(first.name, first.data, model, job, pad, sample_memory(job, model.width))
        else:
            ledger = kept_ledger(job, first.name, None, self._first.data)
            client = WholeClient(first.name, first.data, model, job, pad, ledger)  # type: ignore[arg-type]
        fresh = RequestGate(gate.settings, gate.policy, gate.num_blocks, gate.cuts, gate.eval_rows)
        told: Any = job
        names = told.network.clients
        sums = sums_of(first.name, None, self._kept, self.policy, lambda text: None, told, names, None)
        channel, digest = Channel(job, model.width, client.memory), self._first.data
        return Joined(client, channel, fresh, digest, self._first.most_bytes, sums)

    def open_desk(self, on_end: Callable[[AggregatorError], None]) -> Desk | None:
        settings: Any = self._first.client.settings
        if not settings.network.aggregator:
            return None
        dial: Any = partial(Way, self._handed_in)
        return Desk(dial, on_end)


@cache
def made(mode: Mode, name: str) -> Made:
    return Made(mode, name)


def client_side(
    mode: Mode,
    name: str,
    line: Line,
    disk: MemoryDisk,
    handed_in: Callable[[bytes], None] = lambda payload: None,
) -> Site:
    """Return a client of a run. handed_in: takes what goes to the aggregator."""
    kept: Any = disk.root("client")
    return Site(Conversation(line), kept, made(mode, name).again(handed_in, kept))  # type: ignore[arg-type]


class KnownMember(SumMember):
    """A client in a sum whose keys follow from its name and the sum: what was recorded fits it again."""

    def __init__(self, name: str, context: bytes, *given: Any) -> None:
        def drawn(what: str) -> bytes:
            return hashlib.sha256(f"{name} {what}".encode() + context).digest()

        keys = [X25519PrivateKey.from_private_bytes(drawn(what)) for what in ("mask", "seal")]
        with (
            mock.patch.object(member.X25519PrivateKey, "generate", side_effect=keys),
            mock.patch.object(member.secrets, "token_bytes", return_value=drawn("seed")[: member.SEED_BYTES]),
        ):
            super().__init__(name, context, *given)


def known_keys() -> Any:
    """Return a context in which clients in sums have keys that are known."""
    return mock.patch.object(client_sums, "SumMember", KnownMember)


def aggregator_side(listener: Any, disk: MemoryDisk) -> AggregatorProcess:
    """Return an aggregator."""
    mode = MODES[AGGREGATOR]
    layout, kept = mode.start.split_model.slots.layout, cast(Any, disk.root("updates"))
    return AggregatorProcess(mode.job, JOB_DIGEST, NAMES, layout, BLOCKS, listener, kept, lambda text: None)
