"""Files of certificates and keys: their names, reading, writing, and dates."""

from __future__ import annotations

import os
import re
from datetime import datetime, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

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
CRL_BEGINS = b"-----BEGIN X509 CRL-----"
ISSUED = "issued.jsonl"  # in the authority's folder: a line for each certificate that it has signed

PrivateKey = ec.EllipticCurvePrivateKey


def check_name(name: str) -> None:
    """Raise JobError where a party cannot be called so."""
    if not NAME.fullmatch(name):
        raise JobError(f"{name!r} cannot be a client's name: letters a to z, digits, - and _, at most 64")


def certificates_in(path: Path) -> list[x509.Certificate]:
    """Return the certificates of a PEM file, at least one. Raises NetworkError, OutputError."""
    try:
        return x509.load_pem_x509_certificates(read(path))
    except ValueError as error:
        raise NetworkError(f"{path} is no certificate: {error}") from None


def hosts_of(made: x509.Certificate | x509.CertificateSigningRequest) -> list[str]:
    """Return the names and addresses in a certificate, or a request, of a party that listens."""
    try:
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(one.value) for one in names if isinstance(one, x509.DNSName | x509.IPAddress)]


def close_folder(folder: Path) -> None:
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


def check_dates(path: Path, certificate: x509.Certificate, remedy: str) -> None:
    """Raise NetworkError where a certificate has ended, or is not valid yet by the clock of this machine."""
    now = datetime.now(timezone.utc)
    if certificate.not_valid_after_utc < now:
        raise NetworkError(
            f"the certificate {path} ended on {certificate.not_valid_after_utc:%Y-%m-%d}: {remedy}"
        )
    if certificate.not_valid_before_utc > now:
        raise NetworkError(
            f"the certificate {path} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on, "
            f"and the clock of this machine says {now:%Y-%m-%d %H:%M} UTC: set the clock"
        )


def read(path: Path) -> bytes:
    """Return the bytes of a file of certificates. Raises OutputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        remedy = "; `splitft certs init` makes an authority" if path.name in (CA, CA_KEY) else ""
        raise OutputError(f"cannot read {path}: {error.strerror}{remedy}") from None


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file at once; a key is never readable by others, not even while it is written."""
    beside = path.with_name(f".{path.name}.part")
    with writing(path, "name another folder"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        beside.touch(mode=mode, exist_ok=False)
        beside.write_bytes(content)
        beside.replace(path)


def write_key(path: Path, key: PrivateKey) -> None:
    form = serialization.PrivateFormat.PKCS8
    content = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    write(path, content, mode=0o600)
