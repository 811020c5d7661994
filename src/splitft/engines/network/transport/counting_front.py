"""A front that counts: passes bytes on to gRPC until a connection has said too much without saying who it is.

It is used where no client certificate is asked for; with certificates gRPC listens by itself, and strangers
end at its handshake. What gRPC lacks, in Python at version 1.85: a bound on what HTTP/2 frames of a stranger
cost. CONTINUATION, SETTINGS, PING and RST_STREAM frames from 8 connections took 0.6 to 1 GB in 4 seconds,
with `grpc.absolute_max_metadata_size`, `grpc.max_concurrent_streams`, ping strikes and a connection age
or without (`benchmarks/door.py floods`). It ends no TLS and decides on no identity: being recognised lifts
the bound, no more. gRPC listens at a socket in a folder of this user alone.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from splitft.engines.network.transport.strangers import FULL, STRANGER_BYTES, Audit, Peer, plain

MOST_HELD = 1 << 20  # bytes that wait for one side, from which on the other is not read
INNER = "grpc"  # the socket of gRPC in the folder


class CountingFront:
    """Listens at an address, and passes connections on to gRPC.

    room: connections at a time for which there are files; None: any number. audit: of those beyond.
    """

    def __init__(self, room: int | None = None, audit: Audit = lambda address, reason: None) -> None:
        self._room, self._audit = room, audit
        self._open = 0
        self.folder = Path(tempfile.mkdtemp(prefix="splitft-"))
        self._serial = 0
        self._ways: dict[str, _Way] = {}  # by the name of their socket towards gRPC
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Start to listen; return the port. Raises OSError."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Way(self), host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, and hang up."""
        if self._server is not None:
            self._server.close()
        for way in list(self._ways.values()):
            way.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def peer_of(self, name: str) -> Peer:
        """Return who is behind gRPC's name of a connection; an OSError where that has ended."""
        way = self._ways.get(Path(name).name)
        if way is None:
            raise ConnectionError("the connection ended")
        return way.peer

    def recognise(self, name: str) -> None:
        """Lift the bound of a connection."""
        if (way := self._ways.get(Path(name).name)) is not None:
            way.known = True

    def admit(self, way: _Way) -> bool:
        """Count a connection; return whether there are files for it."""
        self._open += 1
        if self._room is None or self._open <= self._room:
            return True
        self._audit(way.peer[0], FULL)
        return False

    def left(self) -> None:
        """Count a connection that has ended."""
        self._open -= 1

    async def connect(self, way: _Way) -> None:
        """Connect a way with gRPC. The socket has a name, by which gRPC knows the connection."""
        self._serial += 1
        path = self.folder / f"{self._serial}"
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.setblocking(False)
            inner.bind(str(path))
            loop = asyncio.get_running_loop()
            await loop.sock_connect(inner, str(self.folder / INNER))
            self._ways[path.name] = way
            await loop.create_unix_connection(lambda: _Inner(way), sock=inner)
        except OSError:  # of files that are open, for one
            inner.close()
            way.end()
        finally:
            path.unlink(missing_ok=True)
        if way.over:
            self._ways.pop(path.name, None)
        else:
            way.on_over = lambda: self._ways.pop(path.name, None)


class _Way(asyncio.Protocol):
    """One connection from outside, and its way on to gRPC."""

    def __init__(self, front: CountingFront) -> None:
        self.peer: Peer = ("-", 0)
        self.known = self.over = False
        self.on_over: Callable[[], object] = lambda: None
        self.inner: asyncio.Transport | None = None
        self.outer: asyncio.Transport | None = None
        self._front = front
        self._sent = 0
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        name = transport.get_extra_info("peername")
        self.peer, self.outer = (plain(name[0]), name[1]), transport
        transport.set_write_buffer_limits(MOST_HELD)
        if not self._front.admit(self):
            self.end()

    def data_received(self, data: bytes) -> None:
        self._sent += len(data)
        if not self.known and self._sent > STRANGER_BYTES:
            self.end()
        elif self.inner is not None:
            self.inner.write(data)
        elif self._connecting is None and self.outer is not None:  # silence is not passed on
            self.outer.pause_reading()
            self._connecting = asyncio.ensure_future(self._connect(data))

    async def _connect(self, words: bytes) -> None:
        await self._front.connect(self)
        if self.inner is not None and self.outer is not None and not self.over:
            self.inner.write(words)
            self.outer.resume_reading()
        else:
            self.end()

    def connection_lost(self, error: Exception | None) -> None:
        self.end()

    def pause_writing(self) -> None:
        if self.inner is not None:
            self.inner.pause_reading()

    def resume_writing(self) -> None:
        if self.inner is not None:
            self.inner.resume_reading()

    def end(self) -> None:
        """End both halves."""
        if not self.over:
            self.over = True
            self._front.left()
            self.on_over()
            for half in (self.inner, self.outer):
                if half is not None:
                    half.abort()


class _Inner(asyncio.Protocol):
    """The half of a way towards gRPC."""

    def __init__(self, way: _Way) -> None:
        self._way = way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(MOST_HELD)
        self._way.inner = transport

    def data_received(self, data: bytes) -> None:
        if self._way.outer is not None:
            self._way.outer.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._way.end()

    def pause_writing(self) -> None:
        if self._way.outer is not None:
            self._way.outer.pause_reading()

    def resume_writing(self) -> None:
        if self._way.outer is not None:
            self._way.outer.resume_reading()
