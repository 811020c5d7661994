"""Where a live page is served: the address, its socket, and the token that browsers elsewhere must have."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Collection
from contextlib import suppress
from ipaddress import ip_address

from splitft.errors import JobError, NetworkError

ADDRESS = "127.0.0.1:8700"
_ANY = ("0.0.0.0", "::")  # nosec B104 # compared with, not listened at


class PageAddress:
    """An address at which a page is served; its socket listens from the start.

    listen: HOST:PORT; None: `ADDRESS`, or a free port where that one is taken. ask_token: also of browsers on
    this machine; elsewhere it is always asked for. hosts: further names by which browsers call this machine.
    Raises JobError for an address that is none, NetworkError where nothing can listen there.
    """

    def __init__(
        self, listen: str | None = None, *, ask_token: bool = False, hosts: Collection[str] = ()
    ) -> None:
        host, port = _parsed(listen or ADDRESS)
        self.is_open = not _is_loopback(host)
        self.token = secrets.token_urlsafe(24) if ask_token or self.is_open else ""
        self.socket = _listening(host, port, free=listen is None)
        self.port = int(self.socket.getsockname()[1])
        self._host = socket.gethostname() if host in _ANY else host
        self.hosts = sorted({host, socket.gethostname(), socket.getfqdn(), *hosts} if self.is_open else hosts)

    @property
    def url(self) -> str:
        """The address for a browser, with the token after the #: browsers send that part to no server."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/" + (f"#token={self.token}" if self.token else "")

    def told(self) -> list[str]:
        """Return the lines that tell a person where the page is."""
        lines = [f"Live page: {self.url}"]
        if self.is_open:
            lines.append(
                "It is open to a network without TLS: others on it can read along. Safer: serve it at "
                f"127.0.0.1, and from your machine run ssh -L {self.port}:127.0.0.1:{self.port} {self._host}"
            )
        return lines


def _parsed(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise JobError(f"--listen {listen}: write HOST:PORT, such as {ADDRESS} or 0.0.0.0:8700")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _listening(host: str, port: int, *, free: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        if free:  # nobody has asked for this port
            return _listening(host, 0, free=False)
        reason = str(getattr(error, "strerror", None) or error).split(" (")[0]
        raise NetworkError(
            f"the live page cannot be served at {host}:{port}: {reason}; choose another address"
        ) from None
