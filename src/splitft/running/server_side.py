"""The server's side of a run over a network, from the listener to the cohort."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from splitft.common.files import append_line
from splitft.cuts.planner import CutPlanner
from splitft.engines.network.aggregator_link import AggregatorLink
from splitft.engines.network.cohort import NetworkCohort
from splitft.engines.network.control import Welcome
from splitft.engines.network.ending import STEPS
from splitft.engines.network.gate import SLACK, Gate
from splitft.engines.network.members import Members
from splitft.engines.network.roster import Roster
from splitft.engines.network.timing import StepTimes
from splitft.engines.network.transport.admission import Admission
from splitft.engines.network.transport.listener import Listener
from splitft.running.baselines import WholeModels
from splitft.running.machines import highest_cuts, machines_of
from splitft.running.network import notice
from splitft.running.parties import Parties, global_adapter
from splitft.running.prepare import Assembly
from splitft.server.parts import micro_batches
from splitft.server.server import Server
from splitft.wire.channel import Channel
from splitft.wire.ledger import Ledger


@dataclass(frozen=True)
class ServerSide:
    """The server's side of a run over a network."""

    parties: Parties
    listener: Listener
    roster: Roster
    members: Members
    averaging: AggregatorLink | None


def make_server_side(
    start: Assembly, address: str, certs: Path | None, door: Admission, folder: Path, console: Console
) -> ServerSide:
    """Set up the server's side of a run, and listen."""
    job, ledger, steps = start.job, Ledger(), folder / STEPS
    model = start.split_model()

    # Clients and their cuts.
    roster = Roster(start.names, job.network)
    policy = cut_policy(start)
    times = StepTimes(job, policy.learn if isinstance(policy, CutPlanner) else None)

    # The server, which averages here or has the aggregator average.
    averaging = None
    if job.network.aggregator:
        averaging = AggregatorLink(job, start.slots.layout, start.num_blocks, model.device, ledger)
    server = Server(
        model,
        job,
        start.adapter,
        log=lambda line: append_line(steps, json.dumps(line)),
        averager=averaging,
    )
    server.micro_batches = micro_batches(job, roster.rows, times.parts, roster.there)

    # The way of messages: listener, membership, gate, phases of the cohort.
    listener = listen(start, address, certs, door)
    channels = {name: Channel(job, model.width) for name in start.names}
    gate = Gate(
        job,
        server,
        channels,
        hidden_size=model.width,
        vocab_size=int(start.model.config.get_text_config(decoder=True).vocab_size),
        needs_ids=start.report.server_inputs == "input_ids",
    )
    members = Members(roster, listener, ledger, server, gate.check, channels, partial(notice, console))
    cohort = NetworkCohort(members, job, times, averaging)
    parties = Parties(policy, server, cohort, ledger, None, global_adapter(server))
    return ServerSide(parties, listener, roster, members, averaging)


def cut_policy(start: Assembly) -> CutPlanner | WholeModels:
    """Return the decider of the clients' cuts, from measured step times."""
    if not start.job.splits_model:
        return WholeModels(start.names, start.num_blocks)
    most = highest_cuts(start, machines_of(start))
    blocks = start.num_blocks - start.job.tail_blocks
    return CutPlanner(start.job, start.cuts, most, blocks, measured=True)


def listen(start: Assembly, address: str, certs: Path | None, door: Admission) -> Listener:
    """Start to listen for clients, who get the job and the names of the modules with LoRA."""
    job = start.job.model_dump_json(exclude={"output_dir", "adapter_name_or_path"})
    targets, excluded = tuple(start.targets), tuple(start.slots.excluded)
    welcome = Welcome("", 0, job, targets, excluded, start.report.server_inputs)
    limit = most_bytes(start)
    return Listener(address, certs, door.admit, welcome, limit, door.audit, door.by_certificate)


def most_bytes(start: Assembly) -> int:
    """Return the bytes of the largest message that a client of this job can send."""
    job, config = start.job, start.model.config.get_text_config(decoder=True)
    rows = max(job.per_device_train_batch_size, job.per_device_eval_batch_size)
    batch = rows * job.max_length * (4 * int(config.hidden_size) + 8)
    adapter = sum(tensor.numel() for block in start.adapter.values() for tensor in block.values())
    return max(batch, 2 * 4 * adapter) + SLACK
