"""What the processes of a run do: their main functions, as `splitft server`, `client` and `aggregator`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from simulation.modes import Mode
from simulation.network import SimulatedDialler, SimulatedListener
from simulation.party import Party
from simulation.standin import BLOCKS, EVAL_ROWS, LAYOUT, WIDTH, StandInClient, StandInServer
from splitft.common.checkpoint import load_checkpoint, save_checkpoint
from splitft.common.files import append_line
from splitft.common.state import State
from splitft.engines.network.aggregator_link import AggregatorLink, dial_and_dismiss
from splitft.engines.network.aggregator_process import AggregatorProcess
from splitft.engines.network.cohort import NetworkCohort
from splitft.engines.network.control import End, Welcome
from splitft.engines.network.conversation import Conversation
from splitft.engines.network.desk import Desk
from splitft.engines.network.ending import RESUME, STEPS, say_farewell, say_stop, untold
from splitft.engines.network.faults import FaultLog
from splitft.engines.network.members import Members
from splitft.engines.network.request_gate import RequestGate
from splitft.engines.network.roster import Roster
from splitft.engines.network.site import Joined, Site
from splitft.engines.network.timing import StepTimes
from splitft.errors import AggregatorError
from splitft.history import RoundRecord
from splitft.job.site_policy import SitePolicy
from splitft.round import Observer, run_rounds
from splitft.wire.channel import Channel
from splitft.wire.ledger import Ledger
from splitft.wire.messages import Message

COMPLETE, CHECKPOINTS, HISTORY = "summary.json", "checkpoints", "history.jsonl"
KEEP = 2
TIMES = {"bytes_up", "bytes_down", "bytes_adapter_up", "bytes_adapter_down", "bytes", "round_seconds",
         "evaluation_seconds"}  # fmt: skip


@dataclass
class Outcome:
    """What a schedule came to: for the judges."""

    log: list[dict[str, Any]] = field(default_factory=list)  # steps.jsonl, were nothing ever lost of it
    adapter: Any = None
    records: list[dict[str, Any]] = field(default_factory=list)
    trunks: Any = None
    clients: dict[str, Any] = field(default_factory=dict)
    ends: dict[str, End] = field(default_factory=dict)
    expelled: list[str] = field(default_factory=list)
    completed_at: float = 0.0


@dataclass
class Fixed:
    """Cuts that follow from the round alone."""

    mode: Mode

    def decide(self, round_: int, last: RoundRecord | None) -> dict[str, int]:
        return self.mode.cuts_of(round_)


def serve(party: Party, mode: Mode, outcome: Outcome) -> None:
    """A server: as `running/serve.py`, with the run folder on the party's disk."""
    folder: Any = party.disk.root("run")
    job, names = mode.job, mode.names
    dial = partial(SimulatedDialler, party, "aggregator") if mode.aggregator else None

    def notice(text: str) -> None:
        party.world.note(party.name, text)
        if "is expelled" in text:
            outcome.expelled.append(text)

    def log(line: dict[str, Any]) -> None:
        outcome.log.append(line)
        append_line(folder / STEPS, json.dumps(line))

    # A run that is complete: those that have not heard that are told.
    if (folder / COMPLETE).exists() and (folder / COMPLETE).read_text() == "complete":
        left = untold(folder, names)
        if left is not None:
            listener = SimulatedListener(party, Welcome())
            told = partial(dial_and_dismiss, dial) if dial else None
            say_farewell(listener, left, told, folder, job.network.rejoin_seconds, notice)
        return

    # The parts of a server.
    found = load_checkpoint(folder / CHECKPOINTS)
    ledger = Ledger()
    roster = Roster(names, job.network, lambda: party.world.loop.now)
    averaging = None
    if mode.aggregator:
        averaging = AggregatorLink(job, "digest", LAYOUT, ledger, party.inbox())  # type: ignore[arg-type]
    server = StandInServer(job, log, averaging.average if averaging else None)
    listener = SimulatedListener(party, Welcome("", 0, "job"))
    channels = {name: Channel(job, WIDTH) for name in names}

    def gate(name: str, message: Message) -> Message:
        message = channels[name].unpack(message)
        if name not in server.coordinator.holdings:
            raise ValueError("it came before anything was handed out")
        return message

    faults = FaultLog(folder / "faults.log", notice)
    parts_of_server = server.coordinator, server.worker
    members = Members(roster, listener, ledger, *parts_of_server, gate, channels, notice, faults)
    cohort = NetworkCohort(members, job, StepTimes(job, None), averaging)
    parts = {"server": server, "cohort": cohort, "ledger": ledger}
    if averaging is not None and dial is not None:
        averaging.open(dial, members)

    # The run, from the start or from the last checkpoint.
    dismiss = averaging.end if averaging is not None else None
    records: list[dict[str, Any]] = []
    try:
        last = None
        if found is None:
            cohort.present(0)
        else:
            for name, part in parts.items():
                part.load_state(found.state[name])
            records = [json.loads(line) for line in found.state["records"]]
            last = RoundRecord.from_json(found.state["last"])
            line = {"event": RESUME, "rounds": found.round}
            outcome.log.append(line)
            append_line(folder / STEPS, json.dumps(line))
        for record in run_rounds(job, Fixed(mode), server, cohort, ledger, Observer(), last):
            records.append({k: v for k, v in json.loads(record.to_json()).items() if k not in TIMES})
            at_end = record.round == job.rounds
            if at_end:
                complete(party, folder, outcome, server, records)
            cohort.save(record.round + 1, last=at_end)
            state: State = {name: part.state() for name, part in parts.items()}
            state |= {"records": [json.dumps(one) for one in records], "last": record.to_json()}
            save_checkpoint(folder / CHECKPOINTS, record.round, state, keep=1 if at_end else KEEP)
        if last is not None and last.round == job.rounds:
            complete(party, folder, outcome, server, records)
    except BaseException:
        say_stop(listener, roster.there(), dismiss, "the server stopped")
        raise
    gone = [name for name in roster.took_part() if roster.long_away(name)]
    say_farewell(listener, roster.took_part(), dismiss, folder, job.network.rejoin_seconds, notice, gone=gone)


def complete(
    party: Party, folder: Any, outcome: Outcome, server: StandInServer, records: list[dict[str, Any]]
) -> None:
    """Write the results, as the end of a run does: whole or not at all, and not flushed."""
    outcome.adapter = {b: {n: t.tolist() for n, t in a.items()} for b, a in server.adapter.items()}
    outcome.records = list(records)
    outcome.completed_at = outcome.completed_at or party.world.loop.now
    party.disk.write(folder / COMPLETE, b"complete")


class Setup:
    """Makes stand-in clients."""

    policy = SitePolicy()

    def __init__(self, party: Party, mode: Mode) -> None:
        self.party, self.mode = party, mode

    def make(self, welcome: Welcome) -> Joined:
        job = self.mode.job
        client: Any = StandInClient(self.party.name, job)
        gate = RequestGate(job, self.policy, BLOCKS, range(1, BLOCKS), EVAL_ROWS)
        return Joined(client, Channel(job, WIDTH, client.memory), gate, "digest", 1 << 20)

    def need(self, client: object, cut: int) -> None: ...

    def facts(self) -> dict[str, str]:
        return {}

    def check_adapter(self, client: object, message: object) -> None: ...

    def open_desk(self, on_end: Callable[[AggregatorError], None]) -> Desk | None:
        if not self.mode.aggregator:
            return None
        return Desk(partial(SimulatedDialler, self.party, "aggregator"), on_end)


def take_part(party: Party, mode: Mode, outcome: Outcome) -> None:
    """A client: as `running/join.py`."""
    dialler = SimulatedDialler(party, "server")
    folder: Any = party.disk.root("client")
    site = Site(Conversation(dialler), folder, Setup(party, mode))  # type: ignore[arg-type]
    outcome.ends[party.name] = site.run()
    outcome.clients[party.name] = numbers(site.client.state()) if site.joined else None


def average(party: Party, mode: Mode, outcome: Outcome) -> None:
    """An aggregator: as `running/aggregator.py`."""
    listener = SimulatedListener(party, Welcome())
    notice = partial(party.world.note, party.name)
    folder: Any = party.disk.root("updates")
    outcome.ends[party.name] = AggregatorProcess(
        mode.job, "digest", mode.names, LAYOUT, BLOCKS, listener, folder, notice
    ).serve()
    listener.close()


def numbers(state: Any) -> Any:
    """Return a state with lists in the place of tensors."""
    if isinstance(state, Mapping):
        return {key: numbers(value) for key, value in state.items()}
    return state.tolist() if hasattr(state, "tolist") else state
