"""What a client sends is checked before anything is done with it: shapes, types, counts, values. (ours)

What is expected follows from the session, never from the message. The order of messages is `script`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rich.console import Console
from rich.markup import escape

from splitft.common.failpoints import failpoint
from splitft.common.files import append_line
from splitft.common.quiet import quiet_libraries
from splitft.cuts.planner import CutPlanner
from splitft.engines.network.aggregator_link import SERVER, AggregatorLink, Incoming, dial_aggregator, dismiss
from splitft.engines.network.cohort import NetworkCohort
from splitft.engines.network.control import End, Welcome, client_names
from splitft.engines.network.ending import STEPS, say_farewell, untold
from splitft.engines.network.gate import SLACK, Gate
from splitft.engines.network.members import Members
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.certs import is_loopback
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.listener import Listener
from splitft.errors import JobError
from splitft.job import Job
from splitft.running.baselines import WholeModels
from splitft.running.folder import open_run
from splitft.running.machines import highest_cuts, machines_of
from splitft.running.parties import Parties
from splitft.running.prepare import Assembly, assemble
from splitft.running.runner import RunResult, complete_run, proof_line, run_parties
from splitft.server.parts import micro_batches
from splitft.server.server import Server
from splitft.wire.channel import Channel
from splitft.wire.codecs.registry import network_job
from splitft.wire.ledger import Ledger


def most_bytes(start: Assembly) -> int:
    """Return the bytes of the largest message that a client of this job can send."""
    job, config = start.job, start.model.config.get_text_config(decoder=True)
    rows = max(job.per_device_train_batch_size, job.per_device_eval_batch_size)
    batch = rows * job.max_length * (4 * int(config.hidden_size) + 8)
    adapter = sum(tensor.numel() for block in start.adapter.values() for tensor in block.values())
    return max(batch, 2 * 4 * adapter) + SLACK


METHODS = ("splitft", "same_split", "fed_lora")


def serve(
    job: Job,
    address: str,
    *,
    certs: Path | None = None,
    token: str = "",
    tokens: Mapping[str, str] | None = None,
    insecure: bool = False,
    resume: bool = False,
    console: Console | None = None,
    on_listening: Callable[[Listener], None] = lambda listener: None,
) -> RunResult:
    """Run a job as its server, and write the results to `output_dir`.

    address: HOST:PORT to listen at; port 0 takes a free one. on_listening is told when clients can come.
    certs: folder of the server's certificates, without which only this machine's own clients may come, or
    anyone with `insecure`. token: a secret that every client must know. tokens: instead, a secret of each
    client's own, by which it is known; no client needs a certificate then.
    Raises JobError, ModelError, OutputError and NetworkError.
    """
    console = console or Console()
    if job.method not in METHODS:
        raise JobError(f"method {job.method} has no server: over a network there is {', '.join(METHODS)}")
    check_address(address, certs, insecure)
    check_stated(job)
    job = network_job(job)
    opened = open_run(job, resume=resume)
    names = client_names(job)
    secrets = tokens or (dict.fromkeys(names, token) if token else {})
    audit = AuditLog(opened.folder, lambda text: notice(console, text))
    door = Admission(tuple(names), secrets, certs is not None and not tokens, audit)
    dial = aggregator_dialler(job, certs, insecure, token, console) if job.network.aggregator else None
    if opened.complete:
        result = complete_run(opened, job, console)
        if not tokens:  # else nobody who took part has these
            tell_rest(job, opened.folder, address, certs, door, dial, console)
        return result
    quiet_libraries()
    start = assemble(job, console, elsewhere=names)
    console.print(proof_line(start), highlight=False)
    parties, listener = make_parties(start, address, certs, door, opened.folder, console)
    on_listening(listener)
    console.print(f"listening at port {listener.port} for {', '.join(names)}", highlight=False)
    cohort = parties.cohort
    assert isinstance(cohort, NetworkCohort)
    if cohort.averaging is not None and dial is not None:
        cohort.averaging.open(dial)
    try:
        if opened.checkpoint is None:
            cohort.present(0)
        else:
            append_line(
                opened.folder / STEPS, json.dumps({"event": "resume", "rounds": opened.checkpoint.round})
            )
        result = run_parties(opened, start, parties, console)
        failpoint("run.complete")
    except BaseException:
        cohort.stop("the server stopped")
        raise
    cohort.end(opened.folder)
    return result


def tell_rest(
    job: Job,
    folder: Path,
    address: str,
    certs: Path | None,
    door: Admission,
    dial: Callable[[Any], Dialler] | None,
    console: Console,
) -> None:
    """Tell those who do not know yet that the run in `folder` is complete, after a server that was killed."""
    left = untold(folder, door.names)
    if left is None:
        return

    def dismissed(end: End, seconds: float) -> bool:
        assert dial is not None
        incoming: Incoming = SimpleQueue()
        return dismiss(dial(incoming), incoming, "", end, seconds)

    nothing = Welcome("", 0, "", (), (), "")
    listener = Listener(address, certs, door.admit, nothing, 0, door.audit, door.by_certificate)
    seconds = job.network.rejoin_seconds
    say_farewell(listener, left, dismissed if dial else None, folder, seconds, partial(notice, console))


def aggregator_dialler(
    job: Job, certs: Path | None, insecure: bool, token: str, console: Console
) -> Callable[[Any], Dialler]:
    """Return what dials the job's aggregator, as the server."""
    own = certs / SERVER if certs else None
    return dial_aggregator(
        job, SERVER, own, insecure, token, lambda text: notice(console, f"aggregator: {text}")
    )


def make_parties(
    start: Assembly, address: str, certs: Path | None, door: Admission, folder: Path, console: Console
) -> tuple[Parties, Listener]:
    """Set up the server's side of a run and start listening."""
    job, ledger = start.job, Ledger()
    model = start.split_model()
    steps, averaging = folder / STEPS, None
    if job.network.aggregator:
        averaging = AggregatorLink(job, start.slots.layout, start.num_blocks, model.device, ledger)
    server = Server(
        model,
        job,
        start.adapter,
        log=lambda line: append_line(steps, json.dumps(line)),
        averager=averaging,
    )
    blocks = start.num_blocks - job.tail_blocks
    policy: CutPlanner | WholeModels
    if job.splits_model:
        policy = CutPlanner(job, start.cuts, highest_cuts(start, machines_of(start)), blocks, measured=True)
    else:
        policy = WholeModels(start.names, start.num_blocks)
    told = job.model_dump_json(exclude={"output_dir", "adapter_name_or_path"})
    inputs = start.report.server_inputs
    welcome = Welcome("", 0, told, tuple(start.targets), tuple(start.slots.excluded), inputs)
    limit = most_bytes(start)
    listener = Listener(address, certs, door.admit, welcome, limit, door.audit, door.by_certificate)
    channels = {name: Channel(job, model.width) for name in start.names}
    gate = Gate(
        job,
        server,
        channels,
        hidden_size=model.width,
        vocab_size=int(start.model.config.get_text_config(decoder=True).vocab_size),
        needs_ids=start.report.server_inputs == "input_ids",
    )
    members = Members(
        start.names, job.network, listener, ledger, server, gate.check, channels,
        lambda text: notice(console, text),
    )  # fmt: skip
    if averaging is not None:
        averaging.wake, averaging.pump, averaging.expel = listener.wake, members.pump, members.expel
    cohort = NetworkCohort(members, job, averaging)
    server.micro_batches = micro_batches(
        job, lambda name: members.all[name].rows, cohort.parts, lambda: list(members.there())
    )
    if isinstance(policy, CutPlanner):
        cohort.on_seconds = policy.learn
    return Parties(policy, server, cohort, ledger, None), listener


def check_stated(job: Job) -> None:
    """Raise JobError where a job over a network leaves open who sees the labels."""
    if "labels" not in job.model_fields_set:
        raise JobError(
            "over a network a job must state `labels`: `labels: server` sends the text to the server, "
            "`labels: client` keeps labels at home and needs tail_blocks of 1 or more (docs/threat-model.md)"
        )


def check_address(address: str, certs: Path | None, insecure: bool) -> None:
    """Raise JobError where an address is none, or would be open to a network without TLS."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise JobError(f"--listen {address}: write HOST:PORT, such as 127.0.0.1:50051 or 0.0.0.0:50051")
    if certs is None and not insecure and not is_loopback(host):
        raise JobError(
            f"--listen {address} is open to a network, and there is no TLS: give --certs (made by "
            "`splitft certs init`), or type --insecure where something else keeps strangers out"
        )


def notice(console: Console, text: str) -> None:
    """Print one line about the network."""
    console.print(f"[dim]network[/] {escape(text)}", highlight=False)
