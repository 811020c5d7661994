"""`splitft server`: runs a job whose clients are elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from splitft.common.checkpoint import FOLDER, load_checkpoint
from splitft.common.draining import SECOND_SECONDS, Draining
from splitft.common.failpoints import failpoint
from splitft.common.files import append_mark, flush
from splitft.common.notebook import make_console
from splitft.common.notices import Notice
from splitft.common.quiet import quiet_libraries
from splitft.common.text import named
from splitft.engines.network.aggregator_link import SERVER, dial_aggregator, dial_and_dismiss
from splitft.engines.network.control import Welcome
from splitft.engines.network.ending import (
    RESUME,
    STEPS,
    hand_out_copies,
    say_away,
    say_farewell,
    say_stop,
    untold,
)
from splitft.engines.network.membership import expelled_before, write_members
from splitft.engines.network.round_steps import ShortRoundError
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.entrance import FILES_WITH_CERTS, FILES_WITH_FRONT
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.tokens import TokenFile
from splitft.job import Job
from splitft.running.callbacks import Callback
from splitft.running.events import run_callbacks
from splitft.running.folder import SUMMARY, open_run
from splitft.running.live import Notices
from splitft.running.methods import with_method
from splitft.running.network import (
    check_address,
    check_network_job,
    check_room,
    check_tokens,
    client_names,
    counts_at_clients,
    needs_weights,
    notice,
)
from splitft.running.operator_socket import OperatorSocket
from splitft.running.plane.plane import Plane
from splitft.running.prepare import assemble
from splitft.running.registered import check_clients
from splitft.running.result import RunResult
from splitft.running.runner import complete_run, run_parties
from splitft.running.server_side import make_server_side
from splitft.wire.codecs.registry import network_job


def serve(
    job: Job,
    address: str,
    *,
    certs: Path | None = None,
    token: str = "",
    tokens: Mapping[str, str] | None = None,
    token_hashes: Path | None = None,
    insecure: bool = False,
    resume: bool = False,
    admit: Collection[str] = (),
    callbacks: Sequence[Callback | type[Callback]] = (),
    console: Console | None = None,
    plane: Plane | None = None,
    on_listening: Callable[[Listener], None] = lambda listener: None,
) -> RunResult:
    """Run a job as its server, and write the results to `output_dir`.

    address: HOST:PORT to listen at; port 0 takes a free one. certs: folder of the server's certificates,
    without which only clients on this machine may come, or any client with `insecure`. token: a secret that
    all clients share. tokens: instead, a secret for each client, by which it is known, without a certificate.
    token_hashes: instead, a file with the hash of each client's own. resume: go on from the last checkpoint.
    admit: names of expelled clients that may come again. callbacks: called at the run's events. plane: tells
    others of health and metrics. on_listening: called once clients can connect.
    Raises JobError, ModelError, OutputError and NetworkError.
    """
    # The job, its folder, and the parties that may come in.
    console, plane = console or make_console(), plane or Plane()
    say = Notices(plane.counting(partial(notice, console)))
    called = run_callbacks(job, callbacks)
    check_address(address, certs, insecure, client_certs=not (tokens or token_hashes))
    hashes = TokenFile(token_hashes, say) if token_hashes else None
    job = with_method(job)
    check_network_job(job)
    job = network_job(job)
    with open_run(job, resume=resume) as opened:
        names = client_names(job)
        if job.network.clients_file is not None:
            check_clients(opened.folder, names, job.clients_per_round, job.network.min_clients)
            job = job.model_copy(update={"clients": len(names)})
        expelled = expelled_before(opened.folder, names, admit)
        secrets = tokens or (dict.fromkeys(names, token) if token else {})
        by_certificate = certs is not None and not (tokens or hashes)
        check_room(job, len(names), FILES_WITH_CERTS if by_certificate else FILES_WITH_FRONT)
        door = Admission(tuple(names), secrets, by_certificate, AuditLog(opened.folder, say), hashes)
        if hashes is not None:
            check_tokens(job, hashes, token, names, say)
        dial = None
        if job.network.aggregator:
            dial = dial_aggregator(
                job.network.aggregator, SERVER, certs, insecure, token, lambda t: say(f"aggregator: {t}")
            )

        # A complete run: only tell the clients that have not heard; these need the tokens of its start.
        if opened.complete:
            result = complete_run(opened, job, console)
            left = None if tokens else untold(opened.folder, names)
            if left is not None:
                flush(opened.folder / SUMMARY)  # a loss of power must not have it wait for who has ended
                listener = Listener(address, certs, door, Welcome(), 0)
                plane.takes_clients()
                told = partial(dial_and_dismiss, dial) if dial else None
                say_farewell(listener, left, told, opened.folder, job.network.rejoin_seconds, say)
            return result

        # Prepare the model, and listen.
        quiet_libraries()
        start = assemble(job, console, elsewhere=names, weights=needs_weights(job))
        if not start.has_weights:
            start.notices.append(
                "network.probe is false: the server holds no weights, and tries no average on them"
            )
            say(start.notices[-1])
        if job.eval_set:
            say(
                f"{job.eval_set} is read by clients with --job-data, for their shares of its rows; clients "
                "with --data evaluate their --eval-data, or rows held out; the server reads none"
            )
        if counts_at_clients(job):
            start.notices.append(
                "losses, perplexities and accuracies are the clients' own figures: the server has no labels, "
                "and cannot check them"
            )
            say(start.notices[-1])
        parties, members, listener, averaging, orders = make_server_side(
            start, address, certs, door, opened.folder, console, say
        )
        for name, reason in expelled.items():
            members.expel(name, reason)
        orders.begin(opened.checkpoint.round if opened.checkpoint else 0)  # and who is waited for
        called += plane.of_server(start.job, parties.ledger, orders, door.audit)
        plane.takes_clients()
        on_listening(listener)
        text = f"listening at port {listener.port} for {named(names)}"
        console.print(Notice(text, "listening", port=listener.port), highlight=False)
        if averaging is not None and dial is not None:
            averaging.open(dial, members)

        # Wait for clients, run the rounds from the start or the last checkpoint, tell all the end.
        dismiss = averaging.end if averaging is not None else None
        try:
            with OperatorSocket(opened.folder, orders.ask, say):
                if opened.checkpoint is None:
                    parties.cohort.present(0)
                while True:
                    if opened.checkpoint is not None:
                        resumed = {"event": RESUME, "rounds": opened.checkpoint.round}
                        append_mark(opened.folder / STEPS, json.dumps(resumed))
                    try:
                        result = run_parties(opened, start, parties, console, called, say)
                        break
                    except ShortRoundError as short:
                        say(
                            Notice(
                                f"{short}: it begins anew, with those that are there", "round.anew", "warning"
                            )
                        )
                        opened = replace(opened, checkpoint=load_checkpoint(opened.folder / FOLDER))
                failpoint("run.complete")
        except Draining as stop:
            again = f"; Ctrl-C again within {SECOND_SECONDS:g} seconds ends the run for all"
            text = "the server stops for a while: --resume goes on; clients dial until then"
            say(Notice(text + again * stop.interrupt, "drain", "warning"))
            failpoint("server.drain")
            try:
                say_away(listener, averaging.hang_up if averaging else None, SECOND_SECONDS * stop.interrupt)
            except KeyboardInterrupt:
                say_stop(listener, members.roster.there(), dismiss, "the server stopped")
                raise
            raise
        except BaseException:
            say_stop(listener, members.roster.there(), dismiss, "the server stopped")
            raise
        roster, seconds = members.roster, job.network.rejoin_seconds
        if job.network.hand_out_adapter:
            hand_out_copies(listener, roster, parties.adapters()["adapter"])
        gone = [name for name in roster.took_part() if roster.long_away(name) or roster[name].out]
        if job.network.samples_connected:
            gone = [name for name in roster.took_part() if not roster[name].present]
            write_members(opened.folder, roster, came=True)
        say_farewell(listener, roster.took_part(), dismiss, opened.folder, seconds, say, gone=gone)
        return result
