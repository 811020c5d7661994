"""Identity: the certificate of a client as gRPC shows it, and whether it still counts.

gRPC checks who signed a certificate, and its dates, once, at the handshake; it knows no revoked ones. Here it
is read again, for the hello and for as long as the connection is open.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from splitft.engines.network.transport.client_names import CLIENT_NAMES, identities, read_client_names
from splitft.engines.network.transport.dates import SOON_DAYS, Reminders
from splitft.engines.network.transport.pem import CA, CRL, CRL_BEGINS, SERVER, SERVER_KEY
from splitft.errors import NetworkError

STAMP_SECONDS = 0.5  # for which the files are taken to be as they were, except at a handshake
FILES = (CA, SERVER, SERVER_KEY, CRL, CLIENT_NAMES)
RENEW = "`splitft certs renew` makes another, which is taken up without a restart"
RENEW_AUTHORITY = "`splitft certs init` makes another in another folder, with new certificates for all"
LIST_DAYS = 1  # before a list of revoked certificates is due anew: authorities publish them each week or day
RENEW_LIST = "copy a newer one there, since revocations after that date are not in it"


@dataclass(frozen=True)
class Certificate:
    """What counts of a client's certificate."""

    name: str
    issuer: bytes
    serial: int
    expires: datetime
    identities: frozenset[str] = frozenset()  # the names in it, as `names.yaml` writes them


@dataclass(frozen=True)
class ServerFiles:
    """The files of a server's folder, read.

    revoked: issuers and serial numbers.
    listing: issuers that have a list of revoked certificates.
    names: clients by a name in their certificates; None: a client's name is the certificate's common name.
    ends: what ends, when, what to do, and how many days before that is told.
    """

    configuration: Any  # of gRPC
    revoked: frozenset[tuple[bytes, int]]
    listing: frozenset[bytes] = frozenset()
    names: Mapping[str, str] | None = None
    ends: tuple[tuple[str, datetime, str, int], ...] = ()


def certificate_of(context: Any) -> Certificate | None:
    """Return the certificate of the client of a call, None where it showed none."""
    pem = context.auth_context().get("x509_pem_cert")
    if not pem:
        return None
    read = x509.load_pem_x509_certificate(pem[0])
    return described(read)


def described(read: x509.Certificate) -> Certificate:
    """Return what counts of a certificate."""
    names = read.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    name = str(names[0].value) if len(names) == 1 else ""
    issuer, ends = read.issuer.public_bytes(), read.not_valid_after_utc
    return Certificate(name, issuer, read.serial_number, ends, identities(read))


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
        ca = (folder / CA).read_bytes()
        authorities = x509.load_pem_x509_certificates(ca)
        lists = _lists((folder / CRL).read_bytes(), authorities) if client_certs else []
        own = x509.load_pem_x509_certificates(pair[1])[0]
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise NetworkError(
            f"the server's certificates in {folder} cannot be used ({error}): `splitft certs init` makes them"
        ) from None
    # What is revoked, and what ends.
    revoked = frozenset((one.issuer.public_bytes(), entry.serial_number) for one in lists for entry in one)
    for one in authorities:
        if (one.issuer.public_bytes(), one.serial_number) in revoked:
            raise NetworkError(
                f"{folder / CA} holds an authority that {CRL} revokes ({one.subject.rfc4514_string()}): take "
                "it out of both, with its clients"
            )
    ends = [(str(folder / SERVER), own.not_valid_after_utc, RENEW, SOON_DAYS)]
    if len(authorities) == 1:
        ends.append((str(folder / CA), authorities[0].not_valid_after_utc, RENEW_AUTHORITY, SOON_DAYS))
    for read in lists:
        if read.next_update_utc is not None:
            ends.append((f"list {folder / CRL}", read.next_update_utc, RENEW_LIST, LIST_DAYS))
    return ServerFiles(
        grpc.ssl_server_certificate_configuration([pair], ca),
        revoked,
        frozenset(one.issuer.public_bytes() for one in lists),
        read_client_names(folder / CLIENT_NAMES) if client_certs else None,
        tuple(ends),
    )


def _lists(lists: bytes, authorities: list[x509.Certificate]) -> list[x509.CertificateRevocationList]:
    """Return signed lists of revoked certificates. Raises ValueError where no authority signed one."""
    found = []
    for part in lists.split(CRL_BEGINS)[1:] or [b""]:
        read = x509.load_pem_x509_crl(CRL_BEGINS + part)
        signers = [one.public_key() for one in authorities if one.subject == read.issuer]
        if not any(read.is_signature_valid(signer) for signer in signers):  # type: ignore[arg-type]
            raise ValueError(f"{CRL} is not of the authority of {CA}")
        found.append(read)
    return found


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
        self._reminders = Reminders()

    def credentials(self) -> Any:
        """Return credentials of gRPC that follow the files."""
        return grpc.dynamic_ssl_server_credentials(self._given, self._fetch, self._client_certs)

    def refusal(self, certificate: Certificate) -> str | None:
        """Return why a certificate does not count, None where it does."""
        files = self._current()
        if (certificate.issuer, certificate.serial) in files.revoked:
            return "its certificate was revoked"
        if certificate.issuer not in files.listing:
            return f"{CRL} has no list of its certificate's authority, which may have revoked it"
        if certificate.expires < datetime.now(timezone.utc):
            return f"its certificate has expired ({certificate.expires:%Y-%m-%d %H:%M} UTC)"
        return None

    def name_of(self, certificate: Certificate, wanted: str) -> str:
        """Return the client that a certificate is of: `wanted` if it is that one's; empty: nobody's."""
        names = self._current().names
        if names is None:
            return certificate.name
        found = {names[one] for one in certificate.identities if one in names}
        return wanted if wanted in found else min(found, default="")

    def remind(self, certificates: Mapping[str, Certificate], say: Callable[[str], None]) -> None:
        """Say each day what ends soon. certificates: of the clients that are connected."""
        for name, ends, remedy, days in self._current().ends:
            self._reminders.look(name, ends, remedy, say, days)
        for name, certificate in certificates.items():
            self._reminders.look(
                f"of {name}", certificate.expires, "`splitft certs renew` makes another", say
            )

    def _fetch(self) -> Any:
        self._on_handshake()
        current = self._current(0.0).configuration
        if current is self._given:
            return None
        self._given = current
        return current

    def _stamps(self) -> list[tuple[int, int, int]]:
        stamps = []
        for name in FILES if self._client_certs else FILES[:3]:
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
