"""`splitft certs`: the commands that make, request, sign, renew, list and revoke certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitft.launch.width import FittingApp

certs_app = FittingApp(no_args_is_help=True, help="Certificates and tokens for a run over a network.")
_CERTS = Annotated[Path, typer.Option("--folder", help="The authority's folder.")]
_OWN = Annotated[Path, typer.Option("--folder", help="Folder above the party's own.")]
_RENEW = Annotated[bool, typer.Option("--renew", help="Make another for a name that has one.")]


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
    """Make a key and a certificate for each client."""
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


@certs_app.command("request")
def certs_request(
    name: Annotated[str, typer.Argument(help="This party's name in the job; or server, aggregator.")],
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address of a party that listens; may be repeated.")
    ] = None,
    folder: _OWN = Path("certs"),
) -> None:
    """At a site: make a private key, which stays, and a signing request, which goes to the organiser."""
    from splitft.engines.network.transport.requests import REQUEST_KEY, request

    path, fingerprint = request(folder, name, host or ())
    _tell(path.with_name(REQUEST_KEY), "stays here")
    _tell(path, "goes to the organiser of the run; nothing in it is secret")
    typer.echo(f"Its fingerprint, which the organiser sees, too: {fingerprint}")


@certs_app.command("sign")
def certs_sign(
    request: Annotated[Path, typer.Argument(help="The request that a party has sent, NAME.csr.")],
    name: Annotated[
        str | None, typer.Option(help="The party's name; default: that of the file without .csr.")
    ] = None,
    job: Annotated[str | None, typer.Option(help="The job file, whose clients alone are signed.")] = None,
    renew: _RENEW = False,
    folder: _CERTS = Path("certs"),
) -> None:
    """At the authority: sign a party's request. Only a certificate is made, and no key."""
    from splitft.engines.network.transport.requests import sign

    names: list[str] = []
    if job is not None:
        from splitft.launch.arguments import load
        from splitft.running.network import client_names

        names = client_names(load(job, None))
    wanted = name or request.name.removesuffix(".csr")
    signed = sign(folder, request, wanted, again=renew, names=names)
    hosts = f" for {', '.join(signed.hosts)}" if signed.hosts else ""
    typer.echo(f"Signed the request of {wanted}{hosts}; fingerprint of its key: {signed.fingerprint}")
    _tell(signed.path.parent, f"goes to {wanted}: `splitft certs install {wanted} FILE...` there")


@certs_app.command("install")
def certs_install(
    name: Annotated[str, typer.Argument(help="This party's name, as in its request.")],
    files: Annotated[list[Path], typer.Argument(help="Files that came from the authority.")],
    folder: _OWN = Path("certs"),
) -> None:
    """At a site: take up a certificate; a client or a server that runs follows by itself."""
    from splitft.engines.network.transport.requests import install

    for path in install(folder, name, files):
        _tell(path, "is in its place")


@certs_app.command("renew")
def certs_renew(
    names: Annotated[list[str], typer.Argument(help="Clients, server or aggregator.")],
    host: Annotated[
        list[str] | None, typer.Option(help="Another name or address of a party that listens.")
    ] = None,
    drop_host: Annotated[
        list[str] | None, typer.Option(help="A name or address that it no longer has.")
    ] = None,
    folder: _CERTS = Path("certs"),
) -> None:
    """Make new certificates under the same authority. Keys that lie there are made anew."""
    from splitft.engines.network.transport.certs import renew

    for name in names:
        for path in renew(folder, name, host or (), drop_host or ()):
            key = path.with_suffix(".key")
            beside = f" with {key.name}" if key.exists() else ", whose key stays the same,"
            _tell(path, f"goes to {name}{beside} in place of the former; no party is started again")


@certs_app.command("revoke")
def certs_revoke(
    names: Annotated[list[str], typer.Argument(help="Clients that may not come in any more.")],
    former: Annotated[
        bool, typer.Option("--former", help="Only certificates that others have replaced.")
    ] = False,
    folder: _CERTS = Path("certs"),
) -> None:
    """Refuse all certificates of these names from now on, also in a run that goes on."""
    from splitft.engines.network.transport.certs import CRL, revoke

    for name in names:
        serials = ", ".join(f"{serial:x}" for serial in revoke(folder, name, former=former))
        typer.echo(f"Revoked the certificates of {name} (serial numbers {serials}).")
    _tell(folder / CRL, "goes to the server, and to the aggregator if there is one, in place of theirs")


@certs_app.command("show")
def certs_show(folder: _CERTS = Path("certs")) -> None:
    """List the certificates of an authority's folder, or of a party's: names, ends, revoked or not."""
    from rich.text import Text

    from splitft.common.notebook import make_console
    from splitft.common.tables import make_table
    from splitft.engines.network.transport.listing import list_certificates

    table = make_table("", "name", "file", "ends", "standing", "key", "hosts", "serial", left=7)
    for one in list_certificates(folder):
        words = (one.name, one.file, f"{one.ends:%Y-%m-%d}", one.standing, one.key, ", ".join(one.hosts))
        table.add_row(*(Text(word) for word in (*words, one.serial[:12])))
    make_console().print(table)


@certs_app.command("token")
def certs_token(
    names: Annotated[list[str], typer.Argument(help="The clients' names in the job.")],
    renew: _RENEW = False,
    folder: _CERTS = Path("certs"),
) -> None:
    """Make a secret for each client, for a server behind a proxy that ends TLS; the server gets hashes."""
    from splitft.engines.network.transport.tokens import TOKENS, make_token

    for name in names:
        _tell(make_token(folder, name, again=renew), f"goes to {name}, by a way that nobody else reads")
    _tell(folder / TOKENS, "goes to the server (--tokens): it holds hashes alone")


def _tell(path: Path, use: str) -> None:
    typer.echo(f"{path} {use}.")
