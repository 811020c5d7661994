"""Identity: the certificate of a client as gRPC shows it, and whether it still counts.

gRPC checks who signed a certificate, and its dates, once, at the handshake; it knows no revoked ones. Here it
is read again, for the hello and for as long as the connection is open.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from splitft.engines.network.transport.certs import CA, CRL, SERVER, SERVER_KEY
from splitft.errors import NetworkError

STAMP_SECONDS = 0.5  # for which the files are taken to be as they were, except at a handshake
CRL_BEGINS = b"-----BEGIN X509 CRL-----"


@dataclass(frozen=True)
class Certificate:
    """What counts of a client's certificate."""

    name: str
    issuer: bytes
    serial: int
    expires: datetime


@dataclass(frozen=True)
class ServerFiles:
    """The files of a server's folder, read. revoked: issuers and serial numbers."""

    configuration: Any  # of gRPC
    revoked: frozenset[tuple[bytes, int]]


def certificate_of(context: Any) -> Certificate | None:
    """Return the certificate of the client of a call, None where it showed none."""
    pem = context.auth_context().get("x509_pem_cert")
    if not pem:
        return None
    read = x509.load_pem_x509_certificate(pem[0])
    names = read.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    name = str(names[0].value) if len(names) == 1 else ""
    return Certificate(name, read.issuer.public_bytes(), read.serial_number, read.not_valid_after_utc)


def read_server_files(folder: Path, client_certs: bool) -> ServerFiles:
    """Read a server's certificates. Raises NetworkError where a file is missing or cannot be used."""
    needed = (CA, SERVER, SERVER_KEY, CRL) if client_certs else (CA, SERVER, SERVER_KEY)
    if lacking := [name for name in needed if not (folder / name).exists()]:
        raise NetworkError(
            f"{folder} is no folder of a server's certificates: it lacks {', '.join(lacking)}; `splitft "
            "certs init` makes one for the server, `splitft certs aggregator` one for an aggregator"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / SERVER, folder / SERVER_KEY)
        pair = (folder / SERVER_KEY).read_bytes(), (folder / SERVER).read_bytes()
        ca, revoked = (folder / CA).read_bytes(), frozenset[tuple[bytes, int]]()
        if client_certs:
            revoked = _revoked((folder / CRL).read_bytes(), x509.load_pem_x509_certificates(ca))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise NetworkError(
            f"the server's certificates in {folder} cannot be used ({error}): `splitft certs init` makes them"
        ) from None
    return ServerFiles(grpc.ssl_server_certificate_configuration([pair], ca), revoked)


def _revoked(lists: bytes, authorities: list[x509.Certificate]) -> frozenset[tuple[bytes, int]]:
    """Return the revoked certificates of signed lists. Raises ValueError where no authority signed one."""
    found = set()
    for part in lists.split(CRL_BEGINS)[1:] or [b""]:
        read = x509.load_pem_x509_crl(CRL_BEGINS + part)
        signers = [one.public_key() for one in authorities if one.subject == read.issuer]
        if not any(read.is_signature_valid(signer) for signer in signers):  # type: ignore[arg-type]
            raise ValueError(f"{CRL} is not of the authority of {CA}")
        found |= {(read.issuer.public_bytes(), entry.serial_number) for entry in read}
    return frozenset(found)


class Identity:
    """Decides by certificate, with a server's files as they are now: they can change during a run.

    client_certs: whether clients must have one. on_handshake: called as a TLS handshake begins, in a thread
    of gRPC. Raises NetworkError where a file cannot be used. After a change that cannot be used the former
    files stay, and the audit hears of it.
    """

    def __init__(
        self,
        folder: Path,
        client_certs: bool,
        audit: Callable[[str, str], None],
        on_handshake: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._client_certs, self._audit = folder, client_certs, audit
        self._on_handshake = on_handshake
        self._lock = threading.Lock()
        self._stamp, self._looked = self._stamps(), time.monotonic()
        self._files = read_server_files(folder, client_certs)
        self._given = self._files.configuration  # that gRPC has

    def credentials(self) -> Any:
        """Return credentials of gRPC that follow the files."""
        return grpc.dynamic_ssl_server_credentials(self._given, self._fetch, self._client_certs)

    def refusal(self, certificate: Certificate) -> str | None:
        """Return why a certificate does not count, None where it does."""
        if (certificate.issuer, certificate.serial) in self._current().revoked:
            return "its certificate was revoked"
        if certificate.expires < datetime.now(timezone.utc):
            return f"its certificate has expired ({certificate.expires:%Y-%m-%d %H:%M} UTC)"
        return None

    def _fetch(self) -> Any:
        self._on_handshake()
        current = self._current(0.0).configuration
        if current is self._given:
            return None
        self._given = current
        return current

    def _stamps(self) -> list[tuple[int, int, int]]:
        stamps = []
        for name in (CA, SERVER, SERVER_KEY, CRL)[: 4 if self._client_certs else 3]:
            try:
                found = (self._folder / name).stat()
                stamps.append((found.st_mtime_ns, found.st_ino, found.st_size))
            except OSError:
                stamps.append((0, 0, 0))
        return stamps

    def _current(self, age: float = STAMP_SECONDS) -> ServerFiles:
        with self._lock:
            now = time.monotonic()
            if now - self._looked < age:
                return self._files
            self._looked, stamp = now, self._stamps()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._files = read_server_files(self._folder, self._client_certs)
                except NetworkError as error:
                    self._audit("-", f"certificates could not be read again, the former ones stay: {error}")
            return self._files
