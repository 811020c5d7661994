"""What the processes of a run do: their main functions, as `splitft server`, `client` and `aggregator`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from simulation.kit import Around, kit_of
from simulation.modes import Mode
from simulation.network import SimulatedDialler, SimulatedListener
from simulation.party import Party
from splitft.client.client import ClientRole
from splitft.common.checkpoint import load_checkpoint, save_checkpoint
from splitft.common.files import append_line, append_mark, flush, write_atomically
from splitft.common.state import State
from splitft.engines.network.aggregator_link import AggregatorLink, dial_and_dismiss
from splitft.engines.network.aggregator_process import AggregatorProcess
from splitft.engines.network.cohort import NetworkCohort
from splitft.engines.network.cohorts import CohortLog
from splitft.engines.network.control import End, Welcome
from splitft.engines.network.conversation import Conversation
from splitft.engines.network.desk import Desk
from splitft.engines.network.ending import RESUME, STEPS, say_farewell, say_stop, untold
from splitft.engines.network.faults import FaultLog
from splitft.engines.network.members import Members
from splitft.engines.network.roster import Roster
from splitft.engines.network.round_steps import ShortRoundError
from splitft.engines.network.secure_sum import SecureSum
from splitft.engines.network.site import Joined, Site
from splitft.engines.network.timing import StepTimes
from splitft.errors import AggregatorError
from splitft.history import RoundRecord
from splitft.job.site_policy import SitePolicy
from splitft.lora.dp.noise import experiment_key
from splitft.round import Observer, run_rounds
from splitft.running.private import LEDGER, spent_by
from splitft.server.server import Server
from splitft.wire.channel import Channel
from splitft.wire.ledger import Ledger
from splitft.wire.messages import AdapterDown

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


def serve(party: Party, mode: Mode, outcome: Outcome) -> None:
    """A server: as `running/serve.py`, with the run folder on the party's disk."""
    folder: Any = party.disk.root("run")
    job, names, kit = mode.job, mode.names, kit_of(mode)
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
            flush(folder / COMPLETE)
            listener = SimulatedListener(party, Welcome())
            told = partial(dial_and_dismiss, dial) if dial else None
            say_farewell(listener, left, told, folder, job.network.rejoin_seconds, notice)
        return

    # The parts of a server.
    found = load_checkpoint(folder / CHECKPOINTS)
    ledger = Ledger()
    roster = Roster(names, job.network, lambda: party.world.loop.now, job.clients_per_round)
    averaging = None
    if mode.aggregator:
        averaging = AggregatorLink(job, "digest", kit.layout, ledger, party.inbox())  # type: ignore[arg-type]
    secure = SecureSum(job, kit.layout, averaging, log, goes_back=True) if job.secure_aggregation else None
    policy = kit.policy(mode)
    times = StepTimes(job, getattr(policy, "learn", None))
    elsewhere = secure or averaging
    around = Around(
        log,
        notice,
        elsewhere.average if elsewhere else None,
        roster,
        times,
        held_out=lambda: cohort.held_out_batches,
        blame=lambda name, reason: members.expel(name, reason),
        secure=secure,
    )
    server = kit.server(job, around)
    listener = SimulatedListener(party, Welcome("", 0, "job"))
    channels = {name: Channel(job, kit.width) for name in names}
    gate = kit.gate(job, server, channels, averaging is not None)
    faults = FaultLog(folder / "faults.log", notice)
    parts_of_server = server.coordinator, server.worker
    members = Members(
        roster, listener, ledger, *parts_of_server, gate, channels, notice, faults, facts=kit.facts
    )
    if secure is not None:
        secure.open(members)
    cohorts = CohortLog(folder if job.network.samples_connected else None)
    members.lost = lambda name: cohorts.lose(-1, name)
    cohort = NetworkCohort(members, job, times, averaging if secure is None else None, _cohorts=cohorts)
    parts = {"policy": policy, "server": server, "cohort": cohort, "ledger": ledger}
    if averaging is not None and dial is not None:
        averaging.open(dial, members)

    # The run, from the start or from the last checkpoint.
    dismiss = averaging.end if averaging is not None else None
    records: list[dict[str, Any]] = []
    last = None
    try:
        if found is None:
            cohort.present(0)
        while True:
            if found is not None:
                for name, part in parts.items():
                    part.load_state(found.state[name])
                records = [json.loads(line) for line in found.state["records"]]
                last = RoundRecord.from_json(found.state["last"])
                line = {"event": RESUME, "rounds": found.round}
                outcome.log.append(line)
                append_mark(folder / STEPS, json.dumps(line))
            try:
                spent = spent_by(job, last)
                for record in run_rounds(job, policy, server, cohort, ledger, Observer(), last, None, spent):
                    records.append({k: v for k, v in json.loads(record.to_json()).items() if k not in TIMES})
                    at_end = record.round == job.rounds
                    if at_end:
                        complete(party, folder, outcome, server, records)
                    if not at_end and record.round % job.save_every:
                        continue
                    cohort.save(record.round + 1, last=at_end)
                    state: State = {name: part.state() for name, part in parts.items()}
                    state |= {"records": [json.dumps(one) for one in records], "last": record.to_json()}
                    keep = 1 if at_end else KEEP
                    save_checkpoint(folder / CHECKPOINTS, record.round, state, keep=keep)
                break
            except ShortRoundError as short:
                notice(str(short))
                found = load_checkpoint(folder / CHECKPOINTS)
        if last is not None and last.round == job.rounds:
            complete(party, folder, outcome, server, records)
    except BaseException:
        say_stop(listener, roster.there(), dismiss, "the server stopped")
        raise
    coming = job.network.samples_connected
    gone = [n for n in roster.took_part() if (not roster[n].present if coming else roster.long_away(n))]
    say_farewell(listener, roster.took_part(), dismiss, folder, job.network.rejoin_seconds, notice, gone=gone)


def complete(
    party: Party, folder: Any, outcome: Outcome, server: Server, records: list[dict[str, Any]]
) -> None:
    """Write the results, as the end of a run does: whole or not at all."""
    outcome.adapter = {b: {n: t.tolist() for n, t in a.items()} for b, a in server.adapter.items()}
    outcome.records = list(records)
    outcome.completed_at = outcome.completed_at or party.world.loop.now
    party.disk.write(folder / COMPLETE, b"complete")
    flush(folder / COMPLETE)


class Setup:
    """Makes the clients of a schedule."""

    policy = SitePolicy()

    def __init__(self, party: Party, mode: Mode) -> None:
        self.party, self.mode = party, mode

    def make(self, welcome: Welcome) -> Joined:
        folder: Any = self.party.disk.root("client")
        if self.mode.job.dp.active and not (folder / LEDGER).exists():
            # The key that would be drawn: the same noise in every life, and in the undisturbed run.
            kept = {"key": experiment_key(0, self.party.name), "jobs": {}}
            folder.mkdir(exist_ok=True)
            write_atomically(folder / LEDGER, json.dumps(kept), flushed=True)
        return kit_of(self.mode).joined(self.party.name, self.mode.job, self.policy, folder)

    def need(self, client: ClientRole, cut: int) -> None: ...

    def facts(self) -> dict[str, str]:
        return kit_of(self.mode).facts

    def check_adapter(self, client: ClientRole, message: AdapterDown) -> None:
        kit_of(self.mode).check_adapter(self.policy, client, message)

    def open_desk(self, on_end: Callable[[AggregatorError], None]) -> Desk | None:
        if not self.mode.aggregator:
            return None
        return Desk(partial(SimulatedDialler, self.party, "aggregator"), on_end)


def take_part(party: Party, mode: Mode, outcome: Outcome) -> None:
    """A client: as `running/join.py`."""
    dialler = SimulatedDialler(party, "server")
    folder: Any = party.disk.root("client")
    site = Site(Conversation(dialler), folder, Setup(party, mode))
    outcome.ends[party.name] = site.run()
    outcome.clients[party.name] = numbers(site.client.state()) if site.joined else None


def average(party: Party, mode: Mode, outcome: Outcome) -> None:
    """An aggregator: as `running/aggregator.py`."""
    listener = SimulatedListener(party, Welcome())
    notice = partial(party.world.note, party.name)
    folder: Any = party.disk.root("updates")
    kit = kit_of(mode)
    outcome.ends[party.name] = AggregatorProcess(
        mode.job, "digest", mode.names, kit.layout, kit.num_blocks, listener, folder, notice
    ).serve()
    listener.close()


def numbers(state: Any) -> Any:
    """Return a state with lists in the place of tensors."""
    if isinstance(state, Mapping):
        return {key: numbers(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [numbers(value) for value in state]
    return state.tolist() if hasattr(state, "tolist") else state
