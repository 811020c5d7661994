"""`splitft certs`: an authority of one's own, with a folder of certificates for every party.

The authority's key (`ca.key`) signs and revokes; no party of a run needs it.
"""

from __future__ import annotations

import ipaddress
import os
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
SERVER_NAME, AGGREGATOR = "server", "aggregator"  # folders of their certificates
RESERVED = (SERVER_NAME, AGGREGATOR)  # names of parties that are no clients
AGGREGATOR_NAME = "aggregator.splitft"  # the name in them, at any address
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
HERE = ("localhost", "127.0.0.1", "::1")
CA_DAYS, DAYS = 3650, 825

PrivateKey = ec.EllipticCurvePrivateKey


def create_authority(folder: Path, hosts: Sequence[str] = ()) -> Path:
    """Make an authority, and the server's certificate for these hosts (and this machine itself).

    Returns the folder that goes to the server. Raises JobError where a host is none, and OutputError where
    the folder holds an authority already, is open to other users, or cannot be written.
    """
    names = _hosts(hosts)
    if (folder / CA).exists():
        raise OutputError(
            f"{folder} holds an authority already: add clients to it, renew its certificates "
            "(`splitft certs renew`), or name another folder"
        )
    _close(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SplitFT authority")])
    builder = _builder(name, name, key, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs=True), critical=True)
    _write_pair(folder / CA, builder, key, key)
    target = folder / SERVER_NAME
    _write_revoked(folder, [])
    _issue(folder, SERVER_NAME, target / SERVER, names)
    for file in (CA, CRL):
        _write(target / file, (folder / file).read_bytes())
    return target


def add_client(folder: Path, name: str, days: float = DAYS) -> Path:
    """Make a client's certificate; return the folder that goes to the client.

    Raises JobError where the name is not valid, OutputError where it is taken.
    """
    if not NAME.fullmatch(name):
        raise JobError(f"{name!r} cannot be a client's name: letters a to z, digits, - and _, at most 64")
    if name in RESERVED:
        raise JobError(
            f"{name!r} cannot be a client's name: it is another party's, of `splitft certs init` or `splitft "
            "certs aggregator`"
        )
    target = folder / name
    if target.exists():
        raise OutputError(f"{target} is there already: `splitft certs renew {name}` makes a new certificate")
    _issue(folder, name, target / CLIENT, [], days)
    _write(target / CA, _read(folder / CA))
    return target


def add_aggregator(folder: Path, hosts: Sequence[str] = ()) -> Path:
    """Make the certificates of an aggregator and of the server as its client; return the aggregator's folder.

    hosts: its names, besides this machine itself. Raises JobError where one is none, and OutputError where
    there is an aggregator already.
    """
    names = [AGGREGATOR_NAME, *_hosts(hosts)]
    target = folder / AGGREGATOR
    if target.exists():
        raise OutputError(f"{target} is there already: move it away to make another")
    _issue(folder, AGGREGATOR, target / SERVER, names)
    for name in (CA, CRL):
        _write(target / name, _read(folder / name))
    _issue(folder, SERVER_NAME, folder / SERVER_NAME / CLIENT, [])
    return target


def renew(folder: Path, name: str) -> list[Path]:
    """Make new certificates, with new keys, in the folder of a party; return them.

    The former ones count until they end, or are revoked before. Raises OutputError where the party has none.
    """
    made = []
    for path in (folder / name / SERVER, folder / name / CLIENT):
        if path.exists():
            found = x509.load_pem_x509_certificate(_read(path)).extensions
            hosts: list[str] = []
            if path.name == SERVER:
                names = found.get_extension_for_class(x509.SubjectAlternativeName).value
                hosts = [str(one.value) for one in names]
            _issue(folder, name, path, hosts)
            made.append(path)
    if not made:
        raise OutputError(f"{folder / name} holds no certificate: `splitft certs add {name}` makes one")
    return made


def revoke(folder: Path, name: str) -> int:
    """Revoke a client's certificate, also at a running server; return its serial number.

    Raises OutputError where there is no such certificate.
    """
    certificate = x509.load_pem_x509_certificate(_read(folder / name / CLIENT))
    serials = [entry.serial_number for entry in x509.load_pem_x509_crl(_read(folder / CRL))]
    if certificate.serial_number not in serials:
        _write_revoked(folder, [*serials, certificate.serial_number])
    for party in RESERVED:  # that are still beside the authority
        if (folder / party / CRL).exists():
            _write(folder / party / CRL, _read(folder / CRL))
    return certificate.serial_number


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


def _close(folder: Path) -> None:
    """Close an empty folder to other users. Raises OutputError where others can enter a folder with files."""
    if os.name != "posix" or not folder.is_dir() or not folder.stat().st_mode & 0o077:
        return
    if any(folder.iterdir()):
        raise OutputError(
            f"{folder} is open to other users of this machine, and holds files: name a new folder, or close "
            f"it (chmod 700 {folder})"
        )
    with writing(folder, "name another folder"):
        folder.chmod(0o700)


def _hosts(hosts: Sequence[str]) -> list[str]:
    """Return the names and addresses of a party that listens. Raises JobError where one is none."""
    for host in hosts:
        if not HOST.fullmatch(host) and not _is_address(host):
            raise JobError(
                f"{host!r} is no host: give names or addresses without ports, such as server.example.org"
            )
    return list(dict.fromkeys((*HERE, *hosts)))


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    """Return the use of a key. signs: certificates and lists of revoked ones."""
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _issue(folder: Path, name: str, path: Path, hosts: Sequence[str], days: float = DAYS) -> None:
    """Write a certificate of a party. hosts: of one that listens; none: of a client."""
    authority_key, authority = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    names = [_general_name(host) for host in hosts] or [x509.UniformResourceIdentifier(f"splitft:{name}")]
    builder = _builder(subject, authority.subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(issuer, critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
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
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _general_name(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if _is_address(host) else x509.DNSName(host)


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
