"""`splitft certs`: an authority of one's own, with a certificate for the server and for every client.

The authority's key (`ca.key`) signs and revokes; the server does not need it. Each client gets a folder.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from splitft.common.files import writing
from splitft.errors import JobError, NetworkError, OutputError

CA, CA_KEY, CRL = "ca.pem", "ca.key", "revoked.pem"
SERVER, SERVER_KEY, CLIENT, CLIENT_KEY = "server.pem", "server.key", "client.pem", "client.key"
AGGREGATOR = "aggregator"  # folder of its certificates
RESERVED = ("server", AGGREGATOR)  # names of parties that are no clients
AGGREGATOR_NAME = "aggregator.splitft"  # the name in them, at any address
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
CA_DAYS, DAYS = 3650, 825

PrivateKey = ec.EllipticCurvePrivateKey


def create_authority(folder: Path, hosts: Sequence[str] = ()) -> None:
    """Make an authority, and the server's certificate for these hosts (and this machine itself).

    Raises OutputError where the folder holds one already or cannot be written.
    """
    if (folder / CA).exists():
        raise OutputError(f"{folder} holds an authority already: add clients to it, or name another folder")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SplitFT authority")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = _builder(name, name, key, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True).add_extension(identifier, critical=False)
    _write_pair(folder / CA, builder, key, key)
    _write_revoked(folder, [])
    _issue(folder, "server", folder / SERVER, ["localhost", "127.0.0.1", "::1", *hosts])


def add_client(folder: Path, name: str, days: float = DAYS) -> Path:
    """Make a client's certificate; return the folder that goes to the client.

    Raises JobError where the name is not valid, OutputError where it is taken.
    """
    if not NAME.fullmatch(name):
        raise JobError(f"{name!r} cannot be a client's name: letters a to z, digits, - and _, at most 64")
    if name in RESERVED:
        raise JobError(f"{name!r} cannot be a client's name: `splitft certs aggregator` certifies it")
    return _add(folder, name, days)


def _add(folder: Path, name: str, days: float = DAYS) -> Path:
    target = folder / name
    if target.exists():
        raise OutputError(f"{target} is there already: revoke {name} first, and move the folder away")
    _issue(folder, name, target / CLIENT, [], days)
    _write(target / CA, (folder / CA).read_bytes())
    return target


def add_aggregator(folder: Path, hosts: Sequence[str] = ()) -> Path:
    """Make the certificates of an aggregator and of the server as its client; return the aggregator's folder.

    hosts: its names, besides this machine itself. Raises OutputError where there is one already.
    """
    target = folder / AGGREGATOR
    if target.exists():
        raise OutputError(f"{target} is there already: move it away to make another")
    names = [AGGREGATOR_NAME, "localhost", "127.0.0.1", "::1", *hosts]
    _issue(folder, AGGREGATOR, target / SERVER, names)
    for name in (CA, CRL):
        _write(target / name, (folder / name).read_bytes())
    _add(folder, "server")
    return target


def revoke(folder: Path, name: str) -> int:
    """Revoke a client's certificate, also at a running server; return its serial number.

    Raises OutputError where there is no such certificate.
    """
    certificate = x509.load_pem_x509_certificate(_read(folder / name / CLIENT))
    serials = [entry.serial_number for entry in x509.load_pem_x509_crl(_read(folder / CRL))]
    if certificate.serial_number not in serials:
        _write_revoked(folder, [*serials, certificate.serial_number])
    return certificate.serial_number


def _issue(folder: Path, name: str, path: Path, hosts: Sequence[str], days: float = DAYS) -> None:
    authority_key, authority = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = _builder(subject, authority.subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(issuer, critical=False)
    if hosts:
        names = x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)])
        builder = builder.add_extension(names, critical=False)
    _write_pair(path, builder, key, authority_key)


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey, days: float) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + timedelta(days=days))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_revoked(folder: Path, serials: Sequence[int]) -> None:
    key, authority = _authority(folder)
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - timedelta(hours=1))
        .next_update(now + timedelta(days=CA_DAYS))
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    _write(folder / CRL, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _authority(folder: Path) -> tuple[PrivateKey, x509.Certificate]:
    key = serialization.load_pem_private_key(_read(folder / CA_KEY), None)
    assert isinstance(key, PrivateKey)
    return key, x509.load_pem_x509_certificate(_read(folder / CA))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OutputError(
            f"cannot read {path}: {error.strerror}; `splitft certs init` makes an authority"
        ) from None


def _write_pair(path: Path, builder: x509.CertificateBuilder, key: PrivateKey, signer: PrivateKey) -> None:
    """Write a certificate, and beside it its key."""
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    _write(path.with_suffix(".key"), key.private_bytes(pem, form, serialization.NoEncryption()), mode=0o600)
    _write(path, builder.sign(signer, hashes.SHA256()).public_bytes(pem))


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file at once; a key is never readable by others, not even while it is written."""
    beside = path.with_name(f".{path.name}.part")
    with writing(path, "name another folder"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        beside.touch(mode=mode, exist_ok=False)
        beside.write_bytes(content)
        beside.replace(path)


def channel_credentials(server: str, certs: Path | None, insecure: bool, authority: bytes = b"") -> Any:
    """Return a client's gRPC credentials; None: no TLS, on this machine or with `insecure`.

    authority: PEM of the authority of the server's certificate, where clients need no certificate. Without
    certs and authority it is TLS as in a browser, for a server behind a proxy. Raises JobError where the
    address is not HOST:PORT, NetworkError where a certificate is missing.
    """
    import grpc

    host, _, port = server.rpartition(":")
    if not host or "/" in host or not port.isdigit() or int(port) > 65535:
        raise JobError(f"--server {server}: write HOST:PORT, such as 127.0.0.1:50051")
    if certs is not None:
        try:
            root, key, own = ((certs / name).read_bytes() for name in (CA, CLIENT_KEY, CLIENT))
        except OSError as error:
            raise NetworkError(
                f"cannot read {error.filename}: {error.strerror}; `splitft certs add NAME` makes the folder"
            ) from None
        _check_date(certs / CLIENT, own)
        return grpc.ssl_channel_credentials(root, key, own)
    if authority:
        return grpc.ssl_channel_credentials(authority)
    return None if insecure or is_loopback(host) else grpc.ssl_channel_credentials()


def _check_date(path: Path, pem: bytes) -> None:
    """Raise NetworkError where a certificate has ended: the server would answer nothing."""
    try:
        ended = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    except ValueError as error:
        raise NetworkError(f"{path} is no certificate: {error}") from None
    if ended < datetime.now(timezone.utc):
        raise NetworkError(
            f"the certificate {path} ended on {ended:%Y-%m-%d}: `splitft certs add` makes another, at the "
            "authority's folder"
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
