"""The parties of a run in one process: server, clients, cut planner, ledger and, with devices, the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitft.client.client import Client, ClientRole
from splitft.common.state import State
from splitft.common.text import first_few
from splitft.cuts.planner import CutPlanner
from splitft.data import ClientData, join
from splitft.devices.clock import VirtualClock
from splitft.devices.profile import available_members
from splitft.engines.local import LocalCohort
from splitft.engines.network.cohorts import read_counted
from splitft.errors import JobError
from splitft.lora.blocks import Adapter
from splitft.lora.means import Mean
from splitft.model.split_model import SplitModel
from splitft.running.baselines.no_exchange import POOLED, Books, NoExchange
from splitft.running.baselines.whole import WholeClient, WholeModels
from splitft.running.machines import Machines, cuts_in_memory, highest_cuts, machines_of, predicted_seconds
from splitft.running.prepare import Assembly
from splitft.running.private import ledger_of
from splitft.server.parts import micro_batches
from splitft.server.server import Server
from splitft.wire.channel import sample_memory
from splitft.wire.ledger import Ledger

if TYPE_CHECKING:
    from splitft.engines.network.cohort import NetworkCohort


@dataclass(frozen=True)
class Parties:
    """Who takes part in a run."""

    policy: CutPlanner | WholeModels
    server: Server | Books
    cohort: LocalCohort | NetworkCohort | NoExchange
    ledger: Ledger
    machines: Machines | None
    adapters: Callable[[], dict[str, Adapter]]  # {folder in the run's: adapter}
    missing: Callable[[], dict[str, str]] = dict  # {invited client that the last round lacks: reason}
    software: Callable[[], dict[str, dict[str, str]]] = dict  # {client elsewhere: {package: version}}
    self_reported: tuple[str, ...] = ()  # keys of the summary that clients elsewhere state of themselves

    def state(self) -> State:
        """Return all that outlasts a round, as a checkpoint holds it."""
        return {name: part.state() for name, part in self._parts().items()}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`. Raises DataError where it is of other data."""
        for name, part in self._parts().items():
            part.load_state(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"policy": self.policy, "server": self.server, "cohort": self.cohort, "ledger": self.ledger}


def make_parties(
    start: Assembly, model: SplitModel | None = None, mean: Mean | None = None, *, batch_tokens: int = 0
) -> Parties:
    """Set up the parties of a job. Raises JobError where devices, cuts or the policy do not fit.

    Args:
        model, mean: In place of the model itself and of the job's aggregation, for a plan.
        batch_tokens: Most tokens of several clients that the server computes at once; 0: one at a time.
    """
    job, machines, ledger = start.job, machines_of(start), Ledger()
    model = model or start.split_model
    clock: VirtualClock | None = None
    present: Callable[[int], Sequence[str]] | None = None
    if machines:
        devices = {**machines.clients, POOLED: machines.server}
        clock = VirtualClock(machines.costs, job, devices, machines.server)
        present = partial(available_members, machines.clients, start.names, job.seed)
    if job.replay_cohorts is not None:
        present = recorded_members(job.replay_cohorts, start.names)
    pad, data = start.pad_token_id, start.clients
    policy: CutPlanner | WholeModels = WholeModels(start.names, start.num_blocks)
    clients: Sequence[ClientRole]

    # Clients with a cut, or with the whole model.
    if job.splits_model:
        policy = make_planner(start, machines)
        memories = [sample_memory(job, model.width, values=model.has_values) for _ in data]
        clients = [Client(own.name, own, model, job, pad, m) for own, m in zip(data, memories, strict=True)]
    else:
        dry = not model.has_values  # a plan takes plain steps: the same messages
        ledgers = [None if dry else ledger_of(job, own.name) for own in data]
        each = zip(data, ledgers, strict=True)
        clients = whole = [WholeClient(own.name, own, model, job, pad, kept) for own, kept in each]

    # Methods without an exchange: every client by itself, or one trainer of all rows.
    if job.method in ("local_only", "centralized"):
        pooled = None
        if job.method == "centralized":
            rows = join([own.train for own in data])
            pooled = WholeClient(POOLED, ClientData(POOLED, rows, rows.select([])), model, job, pad)
        alone = NoExchange(whole, start.adapter, job, pooled, clock, present)
        return Parties(policy, Books(), alone, ledger, machines, alone.adapters)

    # Methods with a server.
    numbers = {own.name: len(own.train) for own in data}
    server = Server(
        model,
        job,
        start.adapter,
        continues=bool(job.adapter_name_or_path),
        batch_tokens=batch_tokens,
        micro_batches=micro_batches(job, numbers.__getitem__, {}, lambda: start.names),
        mean=mean,
        names=start.names,
    )
    cohort = LocalCohort(clients, job, ledger, clock, present)
    return Parties(policy, server, cohort, ledger, machines, lambda: {"adapter": dict(server.adapter)})


def recorded_members(record: str, names: Sequence[str]) -> Callable[[int], Sequence[str]]:
    """Return the clients of each round as the record of a run has them: those that counted, of these names.

    Raises JobError where the record cannot be followed; so does the function in a round that it lacks.
    """
    counted = read_counted(Path(record).expanduser())
    if unknown := {name for clients in counted.values() for name in clients} - {*names}:
        raise JobError(f"replay_cohorts {record}: no client here is called {first_few(sorted(unknown), 5)}")

    def present(round_: int) -> Sequence[str]:
        if round_ not in counted:
            raise JobError(f"replay_cohorts {record}: it has no round {round_}: lower rounds")
        there = {*counted[round_]}
        return [name for name in names if name in there]

    return present


def make_planner(start: Assembly, machines: Machines | None) -> CutPlanner:
    """Return what decides the cuts, with the seconds that devices predict for a typical batch.

    Raises JobError where a client's memory does not hold its cut.
    """
    job, blocks = start.job, start.num_blocks - start.job.num_tail_blocks
    most, cuts, seconds = highest_cuts(start, machines), start.cuts, {}
    if machines:
        cuts = cuts_in_memory(start, most, machines)
        seconds = {data.name: predicted_seconds(job, data, machines) for data in start.clients}
    planner = CutPlanner(job, cuts, most, blocks, seconds)
    planner.rehearse([data.name for data in start.clients if len(data.eval)])
    return planner
