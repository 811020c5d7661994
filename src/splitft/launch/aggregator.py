"""`splitft aggregator`: the arguments of an aggregator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitft.launch.arguments import load, read_token
from splitft.launch.options import CERTS, LOG_FILE, LOG_FORMAT, OPEN, OVERRIDES, PLUGIN, TOKEN_FILE
from splitft.launch.plane import HEALTH, METRICS, plane_of


def aggregator(
    job: Annotated[str, typer.Argument(help="The server's job file, with network.aggregator.")],
    overrides: OVERRIDES = None,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT to listen at; default: the job's network.aggregator.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where updates are kept until the run ends.")] = Path(
        "runs/aggregator"
    ),
    certs: CERTS = None,
    token_file: TOKEN_FILE = None,
    insecure: OPEN = False,
    plugin: PLUGIN = None,
    log_format: LOG_FORMAT = None,
    log_file: LOG_FILE = None,
    health: HEALTH = None,
    metrics: METRICS = None,
) -> None:
    """Average the clients' adapters in a run whose server must not see them."""
    loaded, token = load(job, overrides), read_token(token_file)
    from splitft.running.aggregator import serve_averages
    from splitft.running.logged_console import log_console

    with (
        log_console(log_format, log_file) as console,
        plane_of("aggregator", health, metrics, certs, console) as plane,
    ):
        serve_averages(
            loaded,
            listen,
            folder=folder,
            certs=certs,
            token=token,
            insecure=insecure,
            console=console,
            plane=plane,
        )
