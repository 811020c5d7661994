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
    from splitft.engines.network.transport.certs import CA_KEY, create_authority

    made = create_authority(folder, hosts or ())
    _tell(made, "goes to the server, which is started with --certs and this folder")
    _tell(folder / CA_KEY, "stays here, with the organiser of the run: it signs and revokes clients")


@certs_app.command("add")
def certs_add(
    names: Annotated[list[str], typer.Argument(help="The clients' names in the job.")],
    folder: _CERTS = Path("certs"),
) -> None:
    """Make a certificate for each client."""
    from splitft.engines.network.transport.certs import add_client

    for name in names:
        _tell(add_client(folder, name), f"goes to {name}, by a way that nobody else reads")


@certs_app.command("aggregator")
def certs_aggregator(
    hosts: Annotated[
        list[str] | None, typer.Argument(help="Names and addresses by which the aggregator is reached.")
    ] = None,
    folder: _CERTS = Path("certs"),
) -> None:
    """Make certificates for an aggregator, and for the server to dial it."""
    from splitft.engines.network.transport.certs import CLIENT, CLIENT_KEY, SERVER_NAME, add_aggregator

    made = add_aggregator(folder, hosts or ())
    _tell(made, "goes to whoever runs the aggregator, by a way that nobody else reads")
    for name in (CLIENT, CLIENT_KEY):
        _tell(folder / SERVER_NAME / name, "goes to the server, beside its other certificates")


@certs_app.command("renew")
def certs_renew(
    names: Annotated[list[str], typer.Argument(help="Clients, server or aggregator.")],
    folder: _CERTS = Path("certs"),
) -> None:
    """Make new certificates and keys for parties that have some, with the same names and hosts."""
    from splitft.engines.network.transport.certs import renew

    for name in names:
        for path in renew(folder, name):
            _tell(path, f"goes to {name} with {path.stem}.key; a client is then started again")


@certs_app.command("revoke")
def certs_revoke(
    names: Annotated[list[str], typer.Argument(help="Clients that may not come in any more.")],
    folder: _CERTS = Path("certs"),
) -> None:
    """Refuse clients' certificates from now on, also in a run that goes on."""
    from splitft.engines.network.transport.certs import CRL, revoke

    for name in names:
        typer.echo(f"Revoked the certificate of {name} (serial number {revoke(folder, name):x}).")
    _tell(folder / CRL, "goes to the server, and to the aggregator if there is one, in place of theirs")


def _tell(path: Path, use: str) -> None:
    typer.echo(f"{path} {use}.")
