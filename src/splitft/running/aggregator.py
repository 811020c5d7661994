"""`splitft aggregator`: averages clients' adapters for a server that must not see them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from splitft.common.draining import Draining
from splitft.common.files import writable_folder
from splitft.common.lock import lock_folder
from splitft.common.notebook import make_console
from splitft.common.notices import Notice
from splitft.common.quiet import quiet_libraries
from splitft.engines.network.aggregator_link import SERVER
from splitft.engines.network.aggregator_process import UPDATES, AggregatorProcess
from splitft.engines.network.control import Welcome
from splitft.engines.network.gate import SLACK
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.listener import Listener
from splitft.errors import JobError, NetworkError
from splitft.job import Job
from splitft.model.config import count_blocks
from splitft.running.fallback import resolve_sources
from splitft.running.methods import with_method
from splitft.running.model import choose_targets, inject_adapters, load_base
from splitft.running.network import check_address, client_names, job_digest, notice
from splitft.running.plane.plane import Plane
from splitft.wire.codecs.registry import network_job


def serve_averages(
    job: Job,
    address: str | None = None,
    *,
    folder: Path,
    certs: Path | None = None,
    token: str = "",
    insecure: bool = False,
    console: Console | None = None,
    plane: Plane | None = None,
) -> None:
    """Average for the server of a job, until that ends the run.

    address: HOST:PORT to listen at; default: the job's `network.aggregator`. folder: for updates during the
    run. plane: tells others of health and metrics. Raises JobError, ModelError, OutputError, and NetworkError
    where the run ends early.
    """
    # The job, and the parties that may come in.
    console, plane = console or make_console(), plane or Plane()
    say = plane.counting(partial(notice, console))
    if not job.network.aggregator:
        raise JobError("the job has no aggregator: set network.aggregator=HOST:PORT, for all parties")
    address = address or job.network.aggregator
    check_address(address, certs, insecure)
    quiet_libraries()
    job = network_job(with_method(job))
    digest = job_digest(job)
    job, _ = resolve_sources(job)
    names = client_names(job)
    if SERVER in names:
        raise JobError(f"with an aggregator no client can be called {SERVER!r}: change network.clients")
    # The shapes of the adapters, without weights.
    model = load_base(job, console, weights=False)
    layout = inject_adapters(job, model, choose_targets(job, model)[0]).layout
    # Listen, and average until the end.
    door = Admission(
        (SERVER, *names),
        dict.fromkeys((SERVER, *names), token) if token else {},
        certs is not None,
        AuditLog(writable_folder(folder, "--folder"), say),
    )
    adapter_bytes = 4 * sum(torch.Size(spec.shape).numel() for specs in layout.values() for spec in specs)
    limit = (2 + len(names)) * adapter_bytes + SLACK
    listener = Listener(address, certs, door, Welcome(), limit)
    text = f"listening at port {listener.port} for the server and {', '.join(names)}"
    console.print(Notice(text, "listening", port=listener.port), highlight=False)
    process = AggregatorProcess(
        job, digest, names, layout, count_blocks(model.config), listener, folder / UPDATES, say
    )
    plane.of_aggregator(process, door.audit)
    plane.takes_clients()
    try:
        with lock_folder(folder, "--folder"):
            end = process.serve()
    except Draining:
        listener.leave()
        raise
    finally:
        listener.close()
    if not end.ok:
        raise NetworkError(f"the run has not come to its end: {end.reason}")
    shutil.rmtree(folder / UPDATES, ignore_errors=True)
    console.print(Notice(end.reason, "end"))
