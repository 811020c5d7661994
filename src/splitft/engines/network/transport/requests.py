"""Requests: a party makes its private key itself, and only a signing request (PKCS #10) leaves it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import NameOID

from splitft.engines.network.transport.credentials import RENEWED, check_pair
from splitft.engines.network.transport.issuing import general_name, given_hosts, issue, read_authority
from splitft.engines.network.transport.pem import (
    AGGREGATOR,
    AGGREGATOR_NAME,
    CA,
    CLIENT,
    CLIENT_KEY,
    CRL,
    CRL_BEGINS,
    RESERVED,
    SERVER,
    SERVER_KEY,
    certificates_in,
    check_dates,
    check_name,
    close_folder,
    hosts_of,
    read,
    write,
    write_key,
)
from splitft.errors import JobError, NetworkError, OutputError

REQUEST_KEY = "request.key"  # until its certificate has come
REQUEST = ".csr"  # the end of a request's name
LEAST_RSA_BITS = 2048


@dataclass(frozen=True)
class Signed:
    """A certificate that was made from a request.

    hosts: of a party that listens. fingerprint: of the request's key.
    """

    path: Path
    hosts: tuple[str, ...]
    fingerprint: str


def fingerprint(key: PublicKeyTypes) -> str:
    """Return the SHA-256 of a public key, as people compare it on the telephone."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.DER, form))
    text = digest.finalize().hex()
    return ":".join(text[at : at + 4] for at in range(0, 32, 4))


def request(folder: Path, name: str, hosts: Sequence[str] = ()) -> tuple[Path, str]:
    """Make a party's private key and its signing request; return the request's file and the fingerprint.

    Both lie in `folder/name`; the key stays there. A certificate that is there stays in use until `install`.

    hosts: names and addresses of a party that listens, besides this machine itself.

    Raises JobError where a name cannot be, OutputError where a request waits, or other users can enter.
    """
    # What is asked for.
    check_name(name)
    if hosts and name not in RESERVED:
        raise JobError(f"{name} is a client, which no other party dials: it has no hosts")
    names = given_hosts(hosts) if name in RESERVED else []
    if name == AGGREGATOR:
        names = [AGGREGATOR_NAME, *names]
    target = folder / name
    path = target / f"{name}{REQUEST}"
    if path.exists():
        raise OutputError(f"{path} is there already: send it, or delete it to make another key and request")
    # The key, in a folder of this user alone, and the request, which the key signs.
    if not (target / CLIENT).exists() and not (target / SERVER).exists():
        close_folder(target)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    if names:
        asked = x509.SubjectAlternativeName([general_name(host) for host in names])
        builder = builder.add_extension(asked, critical=False)
    write_key(target / REQUEST_KEY, key)
    write(path, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path, fingerprint(key.public_key())


def sign(folder: Path, path: Path, name: str, *, again: bool = False, names: Collection[str] = ()) -> Signed:
    """Sign a request at the authority; only the certificate is written, into `folder/name`.

    name: of the party that the request must be of.
    again: whether the name may have a certificate already.
    names: of all clients of the federation; empty: any client's name.

    Raises JobError where the name is none of the federation, OutputError where it is in use, NetworkError
    where the request cannot be signed.
    """
    # The request: of its own key, and of this name.
    made = _read_request(path)
    asked = made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [str(one.value) for one in asked] != [name]:
        found = ", ".join(repr(str(one.value)) for one in asked) or "nobody"
        raise NetworkError(
            f"{path} is a request for {found}, not for {name!r}: ask for another, or give --name"
        )
    check_name(name)
    if names and name not in (*names, *RESERVED):
        raise JobError(f"no client of the job is called {name!r}: there is {', '.join(sorted(names))}")
    # A name in use is not given away by mistake.
    read_authority(folder)
    target = folder / name / (SERVER if name in RESERVED else CLIENT)
    if target.exists() and not again:
        raise OutputError(f"{name} has a certificate already ({target}): --renew signs another for it")
    hosts: list[str] = []
    if name in RESERVED:
        hosts = given_hosts(hosts_of(made))
        if name == AGGREGATOR:
            hosts = list(dict.fromkeys((AGGREGATOR_NAME, *hosts)))
    issue(folder, name, target, hosts, public_key=made.public_key())
    for file in (CA, CRL) if name in RESERVED else (CA,):
        write(folder / name / file, read(folder / file))
    return Signed(target, tuple(hosts), fingerprint(made.public_key()))


def install(folder: Path, name: str, files: Sequence[Path]) -> list[Path]:
    """Put files of the authority into `folder/name`, each in its place; return what was written.

    A certificate must be of the key of the request, or of the key in use. A running party takes them up.

    Raises NetworkError where a file cannot be used; then nothing is written.
    """
    # Look at all files before one is written.
    target = folder / name
    made: dict[str, bytes] = {}
    own = SERVER if name in RESERVED else CLIENT
    for file in files:
        content = read(file)
        if CRL_BEGINS in content:
            made[CRL] = content
        elif is_authority(certificates_in(file)[0]):
            made[CA] = content
        else:
            check_dates(file, certificates_in(file)[0], RENEWED)
            made[own] = content
            key = _key_of(target, certificates_in(file)[0], file, own)
    if own not in made and not (target / own).exists():
        raise NetworkError(f"none of these files is the certificate of {name}: {', '.join(map(str, files))}")
    # The certificate before its key: after a kill in between, the same command goes on.
    for place in sorted(made, key=lambda place: (place == own, place)):
        write(target / place, made[place])
    written = [target / place for place in made]
    if own in made and key.name == REQUEST_KEY:
        key.replace((target / own).with_suffix(".key"))
        (target / f"{name}{REQUEST}").unlink(missing_ok=True)
        written.append((target / own).with_suffix(".key"))
    return written


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate may sign others."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _key_of(folder: Path, certificate: x509.Certificate, file: Path, own: str) -> Path:
    """Return the file of a certificate's key. Raises NetworkError where neither key here is its."""
    places = [folder / REQUEST_KEY, folder / (SERVER_KEY if own == SERVER else CLIENT_KEY)]
    there = [place for place in places if place.exists()]
    if not there:
        raise NetworkError(f"{folder} holds no private key: `splitft certs request {folder.name}` makes one")
    for place in there[:-1]:
        try:
            check_pair(place, read(place), certificate, file)
        except NetworkError:
            continue
        return place
    check_pair(there[-1], read(there[-1]), certificate, file)
    return there[-1]


def _read_request(path: Path) -> x509.CertificateSigningRequest:
    """Read a signing request. Raises NetworkError where it is none, or not signed by its own key."""
    try:
        made = x509.load_pem_x509_csr(read(path))
        valid = made.is_signature_valid
        key = made.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise NetworkError(f"{path} is no signing request: {error}") from None
    if not valid:
        raise NetworkError(f"{path} is not signed by its own key: its sender may not have that key")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < LEAST_RSA_BITS:
        raise NetworkError(f"{path} has an RSA key of {key.key_size} bits: {LEAST_RSA_BITS} is the least")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise NetworkError(f"{path} has a key that TLS here cannot use: it must be EC or RSA")
    return made
