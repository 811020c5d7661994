"""The judges of a schedule: the same bits, each step once, whole checkpoints, all told, nobody expelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from history_checker import check_lines
from simulation.counting import Fixed
from simulation.standin import WIDTH, StandInClient, StandInServer
from splitft.common.checkpoint import load_checkpoint
from splitft.engines.local import LocalCohort
from splitft.engines.network.cohorts import COHORTS, read_counted, read_lines
from splitft.errors import JobError, NetworkError
from splitft.round import Observer, run_rounds
from splitft.wire.ledger import Ledger

if TYPE_CHECKING:
    from simulation.mains import Outcome
    from simulation.modes import Mode
    from simulation.party import Party


def judge(mode: Mode, parties: Sequence[Party], outcome: Outcome, whole: Outcome | None) -> str:
    """Return what is wrong; empty: nothing. whole: of the undisturbed run."""
    if outcome.expelled:
        return outcome.expelled[0]
    try:
        every_round = mode.strict and not mode.job.clients_per_round
        check_lines(outcome.log, mode.job, all_clients=mode.names if every_round else ())
    except AssertionError as error:
        return f"history: {error}"
    if apart := sums_apart(outcome.log):
        return apart
    for party in parties:
        end = outcome.ends.get(party.name)
        if end is not None and not end.ok:
            return f"{party.name} ended with: {end.reason}"
    for party in parties:
        if path := damaged(party.disk):
            return f"{party.name}: {path} has its name and is not whole"
    server: Any = parties[0].disk
    found = load_checkpoint(server.root("run") / "checkpoints")
    every = mode.job.save_every
    last = (mode.job.rounds - 1) // every * every  # it may die before the last one
    if found is None or found.round < last or found.passed_over:
        return f"the last checkpoint: {found and (found.round, found.passed_over)}"
    if mode.job.network.samples_connected:
        return as_replayed(mode, parties, outcome)
    if whole is not None and mode.strict:
        return same_bits(parties, outcome, whole)
    return ""


def as_replayed(mode: Mode, parties: Sequence[Party], outcome: Outcome) -> str:
    """Return what differs from the rounds in one process with the same record; no client loses its state."""
    server: Any = parties[0].disk
    path = server.root("run") / COHORTS
    try:
        counted = read_counted(path)
    except JobError as error:
        return str(error)
    if lacking := {*range(1, mode.job.rounds + 1)} - {*counted}:
        return f"the record lacks who counted in {sorted(lacking)}: {read_lines(path)}"
    job, names, clients = mode.job, mode.names, list[Any]()
    for name in names:
        client: Any = StandInClient(name, job)
        client.model = SimpleNamespace(slots=client.model.slots, width=WIDTH, has_values=True)
        clients.append(client)
    cohort = LocalCohort(clients, job, Ledger(), None, lambda round_: counted[round_])
    alone = StandInServer(job, lambda line: None, names=names)
    for _ in run_rounds(job, Fixed(mode), alone, cohort, Ledger(), Observer()):
        pass
    adapter = {b: {n: t.tolist() for n, t in a.items()} for b, a in alone.adapter.items()}
    return "" if adapter == outcome.adapter else f"the adapter is {outcome.adapter}, replayed {adapter}"


def documented_end(mode: Mode, error: Exception) -> bool:
    """Whether a run may end so: the clients of a sum are not all back, and its updates enter no other."""
    masked = mode.job.secure_aggregation and not mode.strict
    return masked and isinstance(error, NetworkError) and "was summed before" in str(error)


def sums_apart(log: Sequence[Mapping[str, Any]]) -> str:
    """Return which round was summed twice in a row over other clients; empty: none.

    Both sums begin at the same checkpoint, so that a client's update is the same in both, and the difference
    of the sums tells what others sent.
    """
    last: tuple[int, list[str]] = (0, [])
    for line in log:
        if line["event"] != "sum":
            continue
        now = line["round"], sorted(line["summed"])
        if now[0] == last[0] and now[1] != last[1]:
            return f"round {now[0]} was summed of {', '.join(last[1])}, and then of {', '.join(now[1])}"
        last = now
    return ""


def same_bits(parties: Sequence[Party], outcome: Outcome, whole: Outcome) -> str:
    """Return which part of the outcome is not that of the undisturbed run."""
    if outcome.adapter != whole.adapter:
        return f"the adapter is {outcome.adapter}, not {whole.adapter}"
    if outcome.records != whole.records:
        both = zip(outcome.records, whole.records, strict=False)
        other = [(key, a[key], b[key]) for a, b in both for key in b if a.get(key) != b[key]]
        return f"the records, {len(outcome.records)} of {len(whole.records)}, differ in {other}"
    for party in parties[1:]:
        state = outcome.clients.get(party.name)
        if state is not None and party.started <= outcome.completed_at and state != whole.clients[party.name]:
            return f"{party.name} ends with {state}, not {whole.clients[party.name]}"
    return ""


def damaged(disk: Any) -> str:
    """Return a checkpoint that has its name and is not whole; empty: there is none."""
    for folder in ("run/checkpoints", "client/saved", "client/finished"):
        place = disk.root(folder)
        for path in place.glob("round-*"):
            if load_checkpoint(place, int(path.name.removeprefix("round-"))) is None:
                return str(path)
    return ""
