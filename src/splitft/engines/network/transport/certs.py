"""`splitft certs`: an authority of one's own, with a folder of certificates for every party.

The authority's key (`ca.key`) signs and revokes; no party of a run needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from splitft.engines.network.transport.issuing import (
    given_hosts,
    issue,
    issued,
    key_usage,
    revoked_serials,
    unsigned,
    write_revoked,
)
from splitft.engines.network.transport.pem import (
    AGGREGATOR,
    AGGREGATOR_NAME,
    CA,
    CA_DAYS,
    CA_KEY,
    CLIENT,
    CLIENT_KEY,
    CRL,
    DAYS,
    HERE,
    RESERVED,
    SERVER,
    SERVER_KEY,
    SERVER_NAME,
    certificates_in,
    check_name,
    close_folder,
    hosts_of,
    read,
    write,
    write_key,
)
from splitft.errors import JobError, NetworkError, OutputError

__all__ = [
    "AGGREGATOR",
    "AGGREGATOR_NAME",
    "CA",
    "CA_KEY",
    "CLIENT",
    "CLIENT_KEY",
    "CRL",
    "DAYS",
    "HERE",
    "RESERVED",
    "SERVER",
    "SERVER_KEY",
    "SERVER_NAME",
    "add_aggregator",
    "add_client",
    "check_no_authority",
    "create_authority",
    "renew",
    "revoke",
]


def create_authority(folder: Path, hosts: Sequence[str] = ()) -> Path:
    """Make an authority, and the server's certificate for these hosts (and this machine itself).

    Returns the folder that goes to the server. Raises JobError where a host is none, and OutputError where
    the folder holds an authority already, is open to other users, or cannot be written.
    """
    names = given_hosts(hosts)
    if (folder / CA).exists():
        raise OutputError(
            f"{folder} holds an authority already: add clients to it, renew its certificates "
            "(`splitft certs renew`), or name another folder"
        )
    close_folder(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SplitFT authority")])
    builder = unsigned(name, name, key.public_key(), CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(key_usage(signs=True), critical=True)
    write_key(folder / CA_KEY, key)
    write(folder / CA, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    target = folder / SERVER_NAME
    write_revoked(folder, [])
    issue(folder, SERVER_NAME, target / SERVER, names)
    for file in (CA, CRL):
        write(target / file, (folder / file).read_bytes())
    return target


def add_client(folder: Path, name: str, days: float = DAYS) -> Path:
    """Make a client's certificate; return the folder that goes to the client.

    Raises JobError where the name is not valid, OutputError where it is taken.
    """
    check_name(name)
    if name in RESERVED:
        raise JobError(
            f"{name!r} cannot be a client's name: it is another party's, of `splitft certs init` or `splitft "
            "certs aggregator`"
        )
    target = folder / name
    if target.exists():
        raise OutputError(f"{target} is there already: `splitft certs renew {name}` makes a new certificate")
    issue(folder, name, target / CLIENT, [], days=days)
    write(target / CA, read(folder / CA))
    return target


def add_aggregator(folder: Path, hosts: Sequence[str] = ()) -> Path:
    """Make the certificates of an aggregator and of the server as its client; return the aggregator's folder.

    hosts: its names, besides this machine itself. Raises JobError where one is none, and OutputError where
    there is an aggregator already.
    """
    names = [AGGREGATOR_NAME, *given_hosts(hosts)]
    target = folder / AGGREGATOR
    if target.exists():
        raise OutputError(f"{target} is there already: move it away to make another")
    issue(folder, AGGREGATOR, target / SERVER, names)
    for name in (CA, CRL):
        write(target / name, read(folder / name))
    issue(folder, SERVER_NAME, folder / SERVER_NAME / CLIENT, [])
    return target


def renew(
    folder: Path, name: str, more_hosts: Sequence[str] = (), dropped_hosts: Sequence[str] = ()
) -> list[Path]:
    """Make new certificates in the folder of a party; return them. The authority stays the same.

    A key that lies there is made anew, too. Where a party keeps its key at home (`splitft certs request`),
    the certificate is for the same key. The former ones count until they end, or are revoked before.

    more_hosts: names and addresses besides those of a party that listens.
    dropped_hosts: those that it has no more.

    Raises OutputError where the party has no certificate, JobError where a host is none, or for a client.
    """
    more = [host for host in given_hosts(more_hosts) if host in more_hosts]
    there = [path for path in (folder / name / SERVER, folder / name / CLIENT) if path.exists()]
    if not there:
        raise OutputError(f"{folder / name} holds no certificate: `splitft certs add {name}` makes one")
    if (more_hosts or dropped_hosts) and there[0].name != SERVER:
        raise JobError(f"{name} is a client, which no other party dials: it has no hosts")
    for path in there:
        found = certificates_in(path)[0]
        hosts: list[str] = []
        if path.name == SERVER:
            kept = [host for host in hosts_of(found) if host not in dropped_hosts]
            hosts = list(dict.fromkeys((*kept, *more)))
        here = path.with_suffix(".key").exists()
        issue(folder, name, path, hosts, public_key=None if here else found.public_key())
    return there


def revoke(folder: Path, name: str, *, former: bool = False) -> list[int]:
    """Revoke all certificates of a party's name, also at a running server; return their serial numbers.

    former: only those that others have replaced. Raises OutputError where there is none.
    """
    own = [serial for serial, line in issued(folder).items() if line["name"] == name]
    if former:
        there = [path for path in (folder / name / SERVER, folder / name / CLIENT) if path.exists()]
        current = {certificates_in(path)[0].serial_number for path in there}
        own = [serial for serial in own if serial not in current]
    if not own:
        raise OutputError(f"{folder} has signed no certificate for {name}: `splitft certs show` lists them")
    serials = revoked_serials(folder)
    if not set(own) <= serials:
        write_revoked(folder, sorted(serials | set(own)))
    for party in RESERVED:  # that are still beside the authority
        if (folder / party / CRL).exists():
            write(folder / party / CRL, read(folder / CRL))
    return own


def check_no_authority(folder: Path) -> None:
    """Raise NetworkError where a party that listens has the key of the authority at hand.

    A party that is broken into could then sign clients of its own.
    """
    if (folder / CA_KEY).exists():
        instead = f"--certs {folder / SERVER_NAME}" if (folder / SERVER_NAME / SERVER).exists() else "another"
        raise NetworkError(
            f"{folder} holds {CA_KEY}, which signs clients and stays with the organiser of the run: give "
            f"{instead}, or move {CA_KEY} away"
        )
