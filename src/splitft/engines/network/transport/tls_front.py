"""The TLS front of a server: a connection is a stranger until its client is recognised.

TLS handshakes happen here, not in gRPC, because gRPC does not report refused peers and does not check revoked
certificates. After a handshake the bytes are passed on to gRPC on loopback; a failed one leaves an audit
line. Without TLS all connections are passed on. The number and the time of strangers are limited, with TLS
and without.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitft.engines.network.transport.certs import CA, CRL, SERVER, SERVER_KEY
from splitft.errors import NetworkError

HANDSHAKE_SECONDS = 5.0
STRANGER_SECONDS = 10.0  # until a client of the run is recognised
MOST_STRANGERS = 32  # at a time; one more ends the oldest
CHUNK = 1 << 16

Audit = Callable[[str, str], None]  # (address, reason of the refusal)


def server_context(folder: Path, client_certs: bool = True) -> ssl.SSLContext:
    """Return the TLS context of a server: TLS 1.3, and of the client a certificate that is not revoked.

    client_certs: false where clients show a secret instead of a certificate. Raises NetworkError where a
    file is missing or cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(folder / SERVER, folder / SERVER_KEY)
        if client_certs:
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
            context.load_verify_locations(folder / CA)
            context.load_verify_locations(folder / CRL)
    except (OSError, ssl.SSLError) as error:
        raise NetworkError(
            f"the server's certificates in {folder} cannot be used ({error}): `splitft certs init` makes them"
        ) from None
    return context


@dataclass(eq=False)
class Connection:
    """One connection."""

    transport: asyncio.Transport
    address: str
    task: asyncio.Task[None] | None = None
    port: int = 0  # on loopback, from which it is passed on; 0: not yet
    name: str = ""  # in its certificate
    stranger: bool = True

    def recognise(self) -> None:
        """Note that it is of a client of the run."""
        self.stranger = False

    def hang_up(self) -> None:
        """End it."""
        if self.task is not None:
            self.task.cancel()


class TlsFront(asyncio.Protocol):
    """Listens at an address, and passes connections on to a port of this machine.

    It is the protocol of every connection that has just been made, and reads nothing before the handshake.
    folder: the server's certificates; None: no TLS. client_certs: whether clients must have one.
    """

    def __init__(self, folder: Path | None, audit: Audit, client_certs: bool = True) -> None:
        self._folder = folder
        self._audit = audit
        self._client_certs = client_certs
        self._context = server_context(folder, client_certs) if folder else None
        self._stamp = self._stamps()
        self._connections: list[Connection] = []  # oldest first
        self._server: asyncio.Server | None = None
        self._inner = 0

    async def start(self, host: str, port: int, inner: int) -> int:
        """Start to listen; return the port. Raises OSError."""
        self._inner = inner
        self._server = await asyncio.get_running_loop().create_server(lambda: self, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, and hang up."""
        if self._server is not None:
            self._server.close()
        tasks = [connection.task for connection in self._connections if connection.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def connection_from(self, port: int) -> Connection | None:
        """Return the connection that is passed on from this port; None: it came by another way."""
        return next((connection for connection in self._connections if connection.port == port), None)

    def _stamps(self) -> list[int]:
        names = (CA, CRL, SERVER, SERVER_KEY) if self._folder else ()
        return [(self._folder / name).stat().st_mtime_ns for name in names if self._folder]

    def _current(self) -> ssl.SSLContext | None:
        """Return the context of the files as they are now: certificates can change during a run."""
        try:
            stamp = self._stamps()
            if self._folder and stamp != self._stamp:
                self._context, self._stamp = server_context(self._folder, self._client_certs), stamp
        except (OSError, NetworkError) as error:
            self._audit("-", f"certificates could not be read again, the former ones stay: {error}")
        return self._context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Handle a new connection."""
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        address = "{}:{}".format(*transport.get_extra_info("peername")[:2])
        strangers = [connection for connection in self._connections if connection.stranger]
        if len(strangers) >= MOST_STRANGERS:
            self._turn_away(strangers[0], f"{MOST_STRANGERS} others had not said who they are, either")
        connection = Connection(transport, address)
        self._connections.append(connection)
        connection.task = asyncio.ensure_future(self._handle(connection))
        connection.task.add_done_callback(lambda _: self._end(connection))
        reason = f"it had not said who it is within {STRANGER_SECONDS:g} seconds"
        asyncio.get_running_loop().call_later(STRANGER_SECONDS, self._turn_away, connection, reason)

    def _end(self, connection: Connection) -> None:
        """Forget a connection: its task is over, or was cancelled before it began."""
        self._connections.remove(connection)
        connection.transport.abort()

    def _turn_away(self, connection: Connection, reason: str) -> None:
        """Hang up on a connection that is still a stranger."""
        if connection in self._connections and connection.stranger:
            connection.recognise()  # its place is free
            self._audit(connection.address, reason)
            connection.hang_up()

    async def _handle(self, connection: Connection) -> None:
        """Carry out the handshake, then carry bytes both ways until one side hangs up."""
        outer: asyncio.StreamWriter | None = None
        inner: asyncio.StreamWriter | None = None
        try:
            context = self._current()
            reader, outer = await _shake_hands(connection.transport, context)
            if context is not None:
                connection.name = _common_name(outer.get_extra_info("ssl_object"))
            if not (words := await reader.read(CHUNK)):  # silence is not passed on
                return
            source, inner = await asyncio.open_connection("127.0.0.1", self._inner)
            connection.port = inner.get_extra_info("sockname")[1]
            inner.write(words)
            pumps = [asyncio.ensure_future(p) for p in (_pump(reader, inner), _pump(source, outer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.TimeoutError) as error:  # ssl.SSLError is an OSError
            if outer is None:
                self._audit(connection.address, f"no TLS handshake: {_words(error)}")
        finally:
            if inner is not None:
                inner.transport.abort()


async def _shake_hands(
    transport: asyncio.Transport, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the streams of a connection that is not read from yet; without a context: without TLS."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK)
    protocol = asyncio.StreamReaderProtocol(reader)
    if context is None:
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.resume_reading()
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
    secure = await loop.start_tls(
        transport, protocol, context, server_side=True, ssl_handshake_timeout=HANDSHAKE_SECONDS
    )
    if secure is None:
        raise ConnectionError("the connection ended")
    protocol.connection_made(secure)
    return reader, asyncio.StreamWriter(secure, protocol, reader, loop)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()


def _common_name(connection: Any) -> str:
    subject = (connection.getpeercert() or {}).get("subject", ())
    return next((value for part in subject for key, value in part if key == "commonName"), "")


def _words(error: BaseException) -> str:
    reason = getattr(error, "verify_message", None) or getattr(error, "reason", None)
    return str(reason or "") or str(error) or type(error).__name__
