"""The parties of a run in one process: server, clients, cut planner, ledger and, with devices, the clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from splitft.assemble import Assembly
from splitft.baselines import CentralCohort, LocalOnlyCohort, SilentServer, WholeClient, WholeModels
from splitft.baselines.centralized import POOLED
from splitft.budget import cuts_in_memory
from splitft.client.client import Client
from splitft.common.state import State
from splitft.cuts.planner import CutPlanner
from splitft.data import ClientData, first_lengths, join
from splitft.devices import (
    Device,
    ModelCosts,
    available_members,
    batch_bytes,
    batch_shape,
    client_devices,
    client_state_seconds,
    highest_cut_in_memory,
    model_costs,
    resolve_device,
)
from splitft.devices.clock import VirtualClock
from splitft.devices.steps import StateSeconds
from splitft.engines.local import LocalCohort
from splitft.job import Job
from splitft.lora.blocks import Adapter
from splitft.lora.means import Mean
from splitft.model.split_model import SplitModel
from splitft.server.codec_trial import CodecChooser
from splitft.server.parts import micro_batches
from splitft.server.server import Server
from splitft.wire.ledger import Ledger

if TYPE_CHECKING:
    from splitft.engines.network.cohort import NetworkCohort


@dataclass(frozen=True)
class Parties:
    """Who takes part in a run."""

    policy: CutPlanner | WholeModels
    server: Server
    cohort: LocalCohort | NetworkCohort
    ledger: Ledger
    machines: Machines | None
    chooser: CodecChooser | None = None

    def state(self) -> State:
        """Return all that outlasts a round, as a checkpoint holds it."""
        return {name: part.state() for name, part in self._parts().items()}

    def load_state(self, state: State) -> None:
        """Be as `state` was taken, after a round. Raises DataError where it is of other data."""
        for name, part in self._parts().items():
            part.load_state(state[name])

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "policy": self.policy,
            "server": self.server,
            "cohort": self.cohort,
            "ledger": self.ledger,
        }
        return parts | ({"codecs": self.chooser} if self.chooser else {})

    def adapters(self) -> dict[str, Adapter]:
        """Return {folder in the run's: adapter}: the global one, or one a client where none is averaged."""
        if isinstance(self.cohort, LocalOnlyCohort):
            return self.cohort.adapters()
        return {"adapter": dict(self.server.adapter)}


@dataclass(frozen=True)
class Machines:
    """The devices of a job's clients and server, and what the model costs them."""

    clients: Mapping[str, Device]
    server: Device
    costs: ModelCosts


def make_parties(start: Assembly, model: SplitModel | None = None, mean: Mean | None = None) -> Parties:
    """Set up the parties of a job. Raises JobError where devices, cuts or the policy do not fit.

    model, mean: what computes and what averages, other than the model itself and the job's aggregation.
    """
    job, machines, ledger = start.job, machines_of(start), Ledger()
    model = model or start.split_model()
    clock = present = None
    if machines:
        devices = {**machines.clients, POOLED: machines.server}
        clock = VirtualClock(machines.costs, job, devices, machines.server)
        present = partial(available_members, machines.clients, start.names, job.seed)
    if job.splits_model:
        clients = [Client(data.name, data, model, job, start.pad_token_id) for data in start.clients]
        cohort = LocalCohort(clients, ledger, clock, present)
        server = Server(model, job, start.adapter, mean)
        if job.chooses_codecs and model.has_values:
            cohort.chooser = CodecChooser(job, server, start.names)
        numbers = {data.name: len(data.train) for data in start.clients}
        server.micro_batches = micro_batches(job, numbers.__getitem__, {}, lambda: start.names)
        return Parties(make_planner(start, machines), server, cohort, ledger, machines, cohort.chooser)
    whole = [WholeClient(data.name, data, model, job, start.pad_token_id) for data in start.clients]
    policy = WholeModels(start.names, start.num_blocks)
    if job.method == "fed_lora":
        cohort = LocalCohort(whole, ledger, clock, present)
        return Parties(policy, Server(model, job, start.adapter, mean), cohort, ledger, machines)
    server = SilentServer(model, job, start.adapter)
    if job.method == "local_only":
        return Parties(policy, server, LocalOnlyCohort(whole, ledger, clock, present), ledger, machines)
    rows = join([data.train for data in start.clients])
    pooled = WholeClient(POOLED, ClientData(POOLED, rows, rows.select([])), model, job, start.pad_token_id)
    return Parties(policy, server, CentralCohort(pooled, whole, ledger, clock, present), ledger, machines)


def machines_of(start: Assembly) -> Machines | None:
    """Return the devices of a job, None where it states none. Raises JobError on unknown ones."""
    job = start.job
    if job.devices is None:
        return None
    server = resolve_device(job.server_device, job.device_profiles)
    return Machines(client_devices(job, start.names), server, model_costs(start.model))


def make_planner(start: Assembly, machines: Machines | None) -> CutPlanner:
    """Return what decides the cuts, with the seconds that devices predict for a typical batch.

    Raises JobError where a client's memory does not hold its cut.
    """
    job, blocks = start.job, start.num_blocks - start.job.tail_blocks
    most = highest_cuts(start, machines)
    if machines:
        seconds = {
            data.name: predicted_seconds(job, data, machines.clients[data.name], machines)
            for data in start.clients
        }
        cuts = cuts_in_memory(start, most, machines)
        planner = CutPlanner(job, cuts, most, blocks, seconds)
    else:
        planner = CutPlanner(job, start.cuts, most, blocks)
    planner.rehearse([data.name for data in start.clients if len(data.eval)])
    return planner


def highest_cuts(start: Assembly, machines: Machines | None) -> dict[str, int]:
    """Return the most blocks that each client may hold: with a device, what its memory holds."""
    most = dict.fromkeys(start.names, start.num_blocks - start.job.tail_blocks - 1)
    if machines:
        for name, device in machines.clients.items():
            most[name] = highest_cut_in_memory(machines.costs, start.job, device)
    return most


def predicted_seconds(job: Job, data: ClientData, device: Device, machines: Machines) -> StateSeconds:
    """Return the seconds of one step of a client on its device (`ClientState`), for its typical batch.

    That is the mean of the batches of its first round: rows as they are, padded to the mean longest row, or
    without padding (`batch_shape`).
    """
    batches = first_lengths(job, data.name, data.train)
    tokens = float(np.mean([batch.sum() for batch in batches]))
    shape: Any = np.mean([batch_shape(batch.tolist(), job.padding_free) for batch in batches], axis=0)
    rows, width = (shape if job.padding_free else np.round(shape)).tolist()
    up, down = batch_bytes(machines.costs, job, round(tokens))
    return client_state_seconds(
        machines.costs,
        job,
        device,
        machines.server,
        rows=rows,
        width=width,
        up_bytes=up,
        down_bytes=down,
    )
