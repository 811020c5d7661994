"""The ServerApp: runs a job as `splitft server` does, with a SuperLink's SuperNodes as its clients."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from splitft.common.files import write_atomically
from splitft.engines.network.transport.certs import is_loopback
from splitft.engines.network.transport.listener import Listener
from splitft.errors import JobError
from splitft.job import load_job
from splitft.launch.flower.launcher import Launcher
from splitft.launch.flower.ticket import Ticket, make_authority
from splitft.running.network import client_names, notice
from splitft.running.serve import serve

REPLIES = "flower.json"  # replies of clients, in the run's folder

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job of the run config with the SuperNodes that are registered under its clients' names.

    Of the run config, listen is the HOST:PORT to listen at, endpoint that for clients; empty: the same.
    Raises SplitFTError.
    """
    settings, console = context.run_config, Console()
    job, listen, endpoint = load_job(str(settings["job"])), str(settings["listen"]), str(settings["endpoint"])
    if job.network.aggregator:
        raise JobError("launched by Flower, the server averages: leave network.aggregator out of the job")
    host = host_for_clients(listen, endpoint)
    with tempfile.TemporaryDirectory(prefix="splitft-") as scratch:
        certs = Path(scratch) / "certs"
        authority = make_authority(certs, host)
        tokens = {name: secrets.token_urlsafe(32) for name in client_names(job)}
        launchers: list[Launcher] = []

        def on_listening(listener: Listener) -> None:
            reached = endpoint or f"{listen.rpartition(':')[0]}:{listener.port}"
            tickets = {name: Ticket(name, reached, authority, token) for name, token in tokens.items()}
            launchers.append(Launcher(grid, tickets, listener.gone, lambda text: notice(console, text)))

        replies: Mapping[str, Any] = {}
        try:
            result = serve(
                job,
                listen,
                certs=certs,
                tokens=tokens,
                resume=settings["resume"] is True,
                console=console,
                on_listening=on_listening,
            )
        finally:
            for launcher in launchers:
                replies = launcher.finish()
    if launchers:
        write_atomically(result.output_dir / REPLIES, json.dumps(replies, indent=1))


def host_for_clients(listen: str, endpoint: str) -> str:
    """Return the host that clients dial. Raises JobError where it does not follow."""
    host, _, port = (endpoint or listen).rpartition(":")
    if not host or not port.isdigit():
        raise JobError(f"endpoint and listen are HOST:PORT, not {endpoint or listen!r}")
    if not endpoint and not is_loopback(host):
        raise JobError(
            f"listen={listen} is open to a network: say with endpoint=HOST:PORT where clients reach it"
        )
    return host.strip("[]")
