"""`splitft certs`: the commands that make and revoke certificates for a run over a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitft.launch.width import FittingApp

certs_app = FittingApp(no_args_is_help=True, help="Certificates for a run over a network.")
_CERTS = Annotated[Path, typer.Option("--folder", help="The authority's folder.")]


@certs_app.command("init")
def certs_init(
    hosts: Annotated[
        list[str] | None, typer.Argument(help="Names and addresses by which clients reach the server.")
    ] = None,
    folder: _CERTS = Path("certs"),
) -> None:
    """Make an authority and the server's certificate."""
    from splitft.engines.network.transport.certs import create_authority

    create_authority(folder, hosts or ())
    typer.echo(
        f"Wrote {folder}: for the server, `--certs {folder}`. Keep {folder}/ca.key to yourself: it signs new "
        "clients."
    )


@certs_app.command("add")
def certs_add(
    names: Annotated[list[str], typer.Argument(help="The clients' names in the job.")],
    folder: _CERTS = Path("certs"),
) -> None:
    """Make a certificate for each client."""
    from splitft.engines.network.transport.certs import add_client

    for name in names:
        made = add_client(folder, name)
        typer.echo(f"Wrote {made}: give this folder to {name}, by a way that nobody else reads.")


@certs_app.command("aggregator")
def certs_aggregator(
    hosts: Annotated[
        list[str] | None, typer.Argument(help="Names and addresses by which the aggregator is reached.")
    ] = None,
    folder: _CERTS = Path("certs"),
) -> None:
    """Make certificates for an aggregator, and for the server to dial it."""
    from splitft.engines.network.transport.certs import add_aggregator

    made = add_aggregator(folder, hosts or ())
    typer.echo(
        f"Wrote {made}: give this folder to who runs the aggregator, by a way that nobody else reads; and "
        f"{folder}/server: it stays with the server's certificates."
    )


@certs_app.command("revoke")
def certs_revoke(
    names: Annotated[list[str], typer.Argument(help="Clients that may not come in any more.")],
    folder: _CERTS = Path("certs"),
) -> None:
    """Refuse clients' certificates from now on, also in a run that goes on."""
    from splitft.engines.network.transport.certs import revoke

    for name in names:
        typer.echo(f"Revoked the certificate of {name} (serial number {revoke(folder, name):x}).")
