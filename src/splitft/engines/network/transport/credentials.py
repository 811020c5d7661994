"""Credentials of a party that dials; certificates may be renewed while it runs."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from splitft.engines.network.transport.dates import Reminders
from splitft.engines.network.transport.pem import CA, CLIENT, CLIENT_KEY, certificates_in, check_dates
from splitft.errors import JobError, NetworkError, OutputError

RENEWED = "the organiser of the run makes another, with `splitft certs renew`"

Stamps = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class _Pair:
    """A certificate with its key, and the authorities of the other end."""

    authorities: bytes
    key: bytes
    own: bytes
    certificate: x509.Certificate
    ends: tuple[tuple[str, datetime], ...]  # of this certificate, and of a single authority
    credentials: Any  # of gRPC


def channel_credentials(
    server: str,
    certs: Path | None,
    insecure: bool,
    authority: bytes = b"",
    ca: Path | None = None,
) -> Any:
    """Return a client's credentials: of gRPC, or `ClientFiles`; None: no TLS, here or with `insecure`.

    server: HOST:PORT.
    authority: PEM of the authority of the server's certificate, where clients need no certificate.
    ca: a file with that, in place of `ca.pem` in `certs`, too.

    Without certs and authority it is TLS as in a browser, for a server behind a proxy. Raises JobError where
    the address is not HOST:PORT, NetworkError where a certificate cannot be used.
    """
    import grpc

    host, _, port = server.rpartition(":")
    if not host or "/" in host or not port.isdigit() or int(port) > 65535:
        raise JobError(f"--server {server}: write HOST:PORT, such as 127.0.0.1:50051")
    if certs is not None:
        return ClientFiles(certs, ca)
    if ca is not None:
        authority = _read_authorities(ca)
    if authority:
        return grpc.ssl_channel_credentials(authority)
    return None if insecure or is_loopback(host) else grpc.ssl_channel_credentials()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _read_authorities(path: Path) -> bytes:
    try:
        certificates_in(path)
        return path.read_bytes()
    except (OutputError, NetworkError) as error:
        raise NetworkError(f"--ca: {error}") from None


class ClientFiles:
    """A client's folder of certificates, read again where it changes.

    ca: the file with the authorities of the server's certificate; default: `ca.pem` in the folder. Raises
    NetworkError where the files cannot be used.
    """

    def __init__(self, folder: Path, ca: Path | None = None) -> None:
        self._paths = (ca or folder / CA, folder / CLIENT_KEY, folder / CLIENT)
        self._reminders = Reminders()
        self._stamps = self._seen = self._look()
        self._pair = self._read()

    @property
    def credentials(self) -> Any:
        """gRPC's, of the files as they were read last."""
        return self._pair.credentials

    def problem(self) -> str:
        """Return why no other party would take this certificate; empty where nothing is known."""
        if (ends := self._pair.certificate.not_valid_after_utc) < datetime.now(timezone.utc):
            return f"this client's certificate ended on {ends:%Y-%m-%d}: {RENEWED}"
        return ""

    def refresh(self, say: Callable[[str], None]) -> bool:
        """Read files that have changed and are at rest; return whether the credentials are others now.

        say: receives a line about files that cannot be used, for which the former ones stay, and each day one
        about a certificate that ends soon.
        """
        stamps, before = self._look(), self._pair
        if stamps == self._seen != self._stamps:  # the same at two looks: they are written
            self._stamps = stamps
            try:
                self._pair = self._read()
            except NetworkError as error:
                say(f"certificates could not be read again, the former ones stay: {error}")
        self._seen = stamps
        for name, ends in self._pair.ends:
            self._reminders.look(name, ends, RENEWED, say)
        now = self._pair
        changed = (before.authorities, before.key, before.own) != (now.authorities, now.key, now.own)
        if changed:
            ends = now.certificate.not_valid_after_utc
            say(f"certificates were read again: this client's ends on {ends:%Y-%m-%d}")
        return changed

    def _look(self) -> Stamps:
        stamps = []
        for path in self._paths:
            try:
                found = path.stat()
                stamps.append((found.st_mtime_ns, found.st_ino, found.st_size))
            except OSError:
                stamps.append((0, 0, 0))
        return tuple(stamps)

    def _read(self) -> _Pair:
        """Read the files. Raises NetworkError where they are no pair, or have ended."""
        import grpc

        try:
            root, key, own = (path.read_bytes() for path in self._paths)
        except OSError as error:
            raise NetworkError(
                f"cannot read {error.filename}: {error.strerror}; `splitft certs add NAME` or `splitft certs "
                "request NAME` makes the folder"
            ) from None
        authorities = certificates_in(self._paths[0])
        certificate = certificates_in(self._paths[2])[0]
        check_pair(self._paths[1], key, certificate, self._paths[2])
        check_dates(self._paths[2], certificate, RENEWED)
        ends = [(str(self._paths[2]), certificate.not_valid_after_utc)]
        if len(authorities) == 1:  # of a bundle of many some always end soon
            ends.append((str(self._paths[0]), authorities[0].not_valid_after_utc))
        made = grpc.ssl_channel_credentials(root, key, own)
        return _Pair(root, key, own, certificate, tuple(ends), made)


def check_pair(path: Path, key: bytes, certificate: x509.Certificate, of: Path) -> None:
    """Raise NetworkError where a private key is none, or that of another certificate.

    key: PEM, of the file `path`. of: the certificate's file.
    """
    try:
        found = serialization.load_pem_private_key(key, None)
    except TypeError:
        raise NetworkError(f"{path} is encrypted: write it without a password, for this user alone") from None
    except ValueError as error:
        raise NetworkError(f"{path} is no private key: {error}") from None
    if found.public_key() != certificate.public_key():
        raise NetworkError(f"{path} is not the key of the certificate {of}: both must be of one request")
