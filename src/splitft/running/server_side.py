"""The parties of a network run as the server has them: roster, averaging, listener, gate, cohort."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from splitft.common.files import append_line
from splitft.cuts.planner import CutPlanner
from splitft.engines.network.aggregator_link import AggregatorLink
from splitft.engines.network.cohort import NetworkCohort
from splitft.engines.network.cohorts import CohortLog
from splitft.engines.network.ending import (
    STEPS,
)
from splitft.engines.network.faults import FAULTS, FaultLog
from splitft.engines.network.gate import Gate
from splitft.engines.network.members import Members
from splitft.engines.network.membership import ThrottledMembers, missing, write_members
from splitft.engines.network.orders import Orders
from splitft.engines.network.roster import Roster
from splitft.engines.network.sameness import facts_of, versions
from splitft.engines.network.secure_sum import SecureSum
from splitft.engines.network.timing import StepTimes
from splitft.engines.network.transport.admission import Admission
from splitft.engines.network.transport.listener import Listener
from splitft.history import OF_EVALUATION
from splitft.model.config import text_config
from splitft.running.baselines.whole import WholeModels
from splitft.running.batching import batch_tokens
from splitft.running.machines import highest_cuts, machines_of
from splitft.running.network import (
    counts_at_clients,
    job_digest,
)
from splitft.running.parties import Parties
from splitft.running.prepare import Assembly
from splitft.running.welcome import most_bytes, welcome_of
from splitft.server.guard import Guard
from splitft.server.parts import micro_batches
from splitft.server.probe import AdapterProbe, not_finite
from splitft.server.server import Server
from splitft.weights.held import base_dtype
from splitft.wire.channel import Channels
from splitft.wire.ledger import Ledger


def make_server_side(
    start: Assembly,
    address: str,
    certs: Path | None,
    door: Admission,
    folder: Path,
    console: Console,
    say: Callable[[str], None],
) -> tuple[Parties, Members, Listener, AggregatorLink | None, Orders]:
    """Set up the server's side of a run, and listen; the cuts follow measured step times.

    say: tells a notice.
    """
    job, ledger, steps = start.job, Ledger(), folder / STEPS
    model = start.split_model

    # Clients and their cuts.
    roster = Roster(start.names, job.network, per_round=job.clients_per_round)
    policy: CutPlanner | WholeModels = WholeModels(start.names, start.num_blocks)
    learn = None
    if job.splits_model:
        most, blocks = highest_cuts(start, machines_of(start)), start.num_blocks - job.num_tail_blocks
        policy = planner = CutPlanner(job, start.cuts, most, blocks, measured=True)
        learn = planner.learn
    times = StepTimes(job, learn)

    # The server, which averages here or has the aggregator average.
    averaging = None
    if job.network.aggregator:
        averaging = AggregatorLink(job, job_digest(start.stated), model.slots.layout, ledger)
    averager, log = averaging.average if averaging else None, partial(write_step, steps)
    secure = None
    if job.secure_aggregation:
        secure = SecureSum(job, model.slots.layout, averaging, log, goes_back=job.save_every > 0)
        averager = secure.average
    # Every average is probed before it is handed out, where the model is here.
    vocab_size = int(text_config(start.model).vocab_size)
    probe = AdapterProbe(
        model, vocab_size, job.max_length, job.without_padding, lambda: cohort.held_out_batches
    )
    examine = probe.problem if start.has_weights else not_finite
    server = Server(
        model,
        job,
        start.adapter,
        continues=bool(job.adapter_name_or_path),
        batch_tokens=batch_tokens(job, model, start.report.cuts, console),
        micro_batches=micro_batches(job, lambda name: roster[name].rows, times.parts, roster.there),
        averager=averager,
        log=log,
        guard=Guard(examine, lambda name, reason: members.expel(name, reason), say, tries=secure is None),
        dropped=lambda: secure.dropped if secure else (),
        names=start.names,
    )

    # The listener.
    welcome = welcome_of(start)
    limit = most_bytes(start)
    listener = Listener(address, certs, door, welcome, limit)

    # The way of messages: membership, gate, phases of the cohort.
    channels = Channels(job, model.width, () if job.network.samples_connected else start.names)
    gate = Gate(
        job,
        server.coordinator.layout,
        server.coordinator.holdings,
        channels,
        hidden_size=model.width,
        vocab_size=vocab_size,
        max_length=job.max_length,
        dtype=base_dtype(job, start.model.config),
        needs_ids=start.report.server_inputs == "input_ids",
        only_digests=averaging is not None,
        adapter=lambda: server.adapter,
    )
    faults, open_ = FaultLog(folder / FAULTS, say), job.network.samples_connected
    changed = ThrottledMembers(folder) if open_ else partial(write_members, folder)
    cohorts = CohortLog(folder if open_ else None)
    orders = Orders(roster, listener, folder, say, changed)
    members = Members(
        roster,
        listener,
        ledger,
        server.coordinator,
        server.worker,
        gate.check,
        channels,
        say,
        faults,
        changed,
        facts_of(welcome.things, welcome.values),
        orders.take_in,
        lambda name: cohorts.lose(orders.round, name),
    )
    if secure is not None:
        secure.open(members)
    handed_in = averaging if secure is None else None  # what training waits for; a sum waits by itself
    cohort = NetworkCohort(
        members, job, times, handed_in, _goes_back=job.save_every > 0, _orders=orders, _cohorts=cohorts
    )
    parties = Parties(
        policy,
        server,
        cohort,
        ledger,
        None,
        adapters=lambda: {"adapter": dict(server.adapter)},
        missing=lambda: missing(roster, open_=open_),
        software=lambda: versions({name: member.facts for name, member in roster.items()}),
        self_reported=(*(OF_EVALUATION if counts_at_clients(job) else ()), "client_versions"),
    )
    return parties, members, listener, averaging, orders


def write_step(path: Path, line: dict[str, Any]) -> None:
    """Write a line of the step log."""
    append_line(path, json.dumps(line))
