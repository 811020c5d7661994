"""`splitft server`: runs a job whose clients are elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rich.console import Console

from splitft.common.failpoints import failpoint
from splitft.common.files import append_line
from splitft.common.quiet import quiet_libraries
from splitft.engines.network.aggregator_link import SERVER, Incoming, dial_aggregator, dismiss
from splitft.engines.network.control import End, Welcome
from splitft.engines.network.ending import STEPS, say_farewell, say_stop, untold
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.listener import Listener
from splitft.errors import JobError
from splitft.job import Job
from splitft.running.folder import open_run
from splitft.running.network import check_address, check_stated, client_names, notice
from splitft.running.prepare import assemble
from splitft.running.runner import RunResult, complete_run, proof_line, run_parties
from splitft.running.server_side import make_server_side
from splitft.wire.codecs.registry import network_job

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
    # Check what job and command ask for; open the folder; decide who may come in.
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
    dial: Callable[[Any], Dialler] | None = None
    if job.network.aggregator:
        own = certs / SERVER if certs else None
        dial = dial_aggregator(
            job.network.aggregator, SERVER, own, insecure, token,
            lambda text: notice(console, f"aggregator: {text}"),
        )  # fmt: skip

    # A complete run: tell the clients that have not heard; without the tokens of its start nobody can.
    if opened.complete:
        result = complete_run(opened, job, console)
        if not tokens:
            tell_rest(job, opened.folder, address, certs, door, dial, console)
        return result

    # Prepare the model, listen, and wait for clients.
    quiet_libraries()
    start = assemble(job, console, elsewhere=names)
    console.print(proof_line(start), highlight=False)
    side = make_server_side(start, address, certs, door, opened.folder, console)
    on_listening(side.listener)
    console.print(f"listening at port {side.listener.port} for {', '.join(names)}", highlight=False)
    dismiss = None
    if side.averaging is not None and dial is not None:
        side.averaging.open(dial, side.members)
        dismiss = side.averaging.end
    try:
        if opened.checkpoint is None:
            side.parties.cohort.present(0)
        else:
            resumed = {"event": "resume", "rounds": opened.checkpoint.round}
            append_line(opened.folder / STEPS, json.dumps(resumed))
        # Run the rounds, and tell everyone that the run is over.
        result = run_parties(opened, start, side.parties, console)
        failpoint("run.complete")
    except BaseException:
        say_stop(side.listener, side.roster.there(), dismiss, "the server stopped")
        raise
    seconds, told = job.network.rejoin_seconds, side.roster.taking_part()
    say_farewell(side.listener, told, dismiss, opened.folder, seconds, partial(notice, console))
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
