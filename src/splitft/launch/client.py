"""`splitft client`: the arguments of a client."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitft.common.startup import import_libraries
from splitft.errors import JobError
from splitft.launch.arguments import read_token
from splitft.launch.audit import READABLE, site_meter_of
from splitft.launch.options import (
    ACCEPT,
    CA,
    CERTS,
    LOG_FILE,
    LOG_FORMAT,
    OPEN,
    OWN_TOKEN,
    PLUGIN,
    POLICY,
    SECRET_FILE,
)
from splitft.launch.plane import METRICS, plane_of


def client(
    server: Annotated[str, typer.Option(help="HOST:PORT of the server.")],
    name: Annotated[str, typer.Option(help="This client's name in the job.")],
    data: Annotated[Path | None, typer.Option(help="This client's data file.")] = None,
    eval_data: Annotated[
        Path | None, typer.Option(help="File to evaluate on; default: a share of --data is held out.")
    ] = None,
    job_data: Annotated[
        bool,
        typer.Option("--job-data", help="Instead: this client's share of the job's data set."),
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="The base model, where it has another name on this machine.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where its state is kept; default: runs/NAME.")] = None,
    certs: CERTS = None,
    ca: CA = None,
    token: OWN_TOKEN = None,
    token_file: SECRET_FILE = None,
    insecure: OPEN = False,
    policy: POLICY = None,
    accept: ACCEPT = "",
    readable: READABLE = None,
    plugin: PLUGIN = None,
    log_format: LOG_FORMAT = None,
    log_file: LOG_FILE = None,
    metrics: METRICS = None,
) -> None:
    """Take part in a run as one client, with data that stay here."""
    if token and token_file:
        raise JobError("--token or --token-file, not both: they mean the same")
    secret = read_token(token, "--token") or read_token(token_file)
    import_libraries()
    from splitft.running.join import join
    from splitft.running.logged_console import log_console

    with (
        log_console(log_format, log_file) as console,
        plane_of("client", None, metrics, certs, console) as plane,
    ):
        join(
            server,
            name,
            data=data,
            eval_data=eval_data,
            job_data=job_data,
            model=model,
            folder=folder or Path("runs") / name,
            certs=certs,
            ca=ca,
            token=secret,
            insecure=insecure,
            policy=policy,
            accept=accept,
            console=console,
            plane=plane,
            meter=site_meter_of(readable),
        )
