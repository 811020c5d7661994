"""Strangers: bounds on connections that have not said who they are.

gRPC ends TLS and carries every byte. What it lacks, in Python at version 1.85, is a bound on a connection
before its first message: no option limits connections by address, and none keeps HTTP/2 control frames from
costing memory (`benchmarks/door.py floods`: 0.6 to 1 GB within 4 seconds from 8 connections, with and without
`grpc.absolute_max_metadata_size`, `grpc.max_concurrent_streams`, ping strikes and a connection age). So a
thread looks at the sockets of gRPC from outside: the kernel counts their bytes, and can end one. It
reads no byte, decides on no identity, and costs nothing a megabyte. Nothing happens where the system lists no
open files under /dev/fd; where it counts no bytes (not Linux), number and time alone are bounded.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import unquote

STRANGER_SECONDS = 10.0  # until a client of the run is recognised
STRANGER_BYTES = 1 << 15  # that it may send until then
MOST_STRANGERS = 256  # at a time; one more ends the newest of the address that has most
SCAN_SECONDS, LOOK_SECONDS = 0.1, 0.05  # between two looks: without and with a stranger there
LOOK_REST, SCAN_REST = 3.0, 15.0  # times a look's own time between two of them, at least
HANDSHAKE_SHARE = 0.05  # of all time, at most, for looks at handshakes beside these
FILES = "/dev/fd"
FULL = "this process may open no more files (ulimit -n): it may come when others have left"
LEFT = "it left before it had said who it is; where a TLS handshake failed, the client shows why"
BYTES_AT, INFO_BYTES = 128, 136  # tcpi_bytes_received in Linux's tcp_info

Peer = tuple[str, int]  # address and port
Audit = Callable[[str, str], None]  # (address, reason of the refusal)


@dataclass(eq=False)
class Connection:
    """One connection, as the kernel shows it."""

    file: int
    peer: Peer
    since: float
    sent: int = 0  # bytes
    known: bool = False  # as a client of the run
    ended: bool = False  # by this server


def peer_of(text: str) -> Peer:
    """Return the address and port of gRPC's name of a peer, such as `ipv4:127.0.0.1:1234`."""
    host, _, port = unquote(text).partition(":")[2].rpartition(":")
    return plain(host.strip("[]")), int(port)


def plain(host: str) -> str:
    """Return an address without a zone, and one of IPv4 in its own form."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def source(host: str) -> str:
    """Return what counts as one address: with IPv6 a network of 64 bits, which one subscriber has."""
    return host if ":" not in host else str(ipaddress.ip_network((host, 64), strict=False))


@contextmanager
def borrowed(file: int) -> Iterator[socket.socket]:
    """Use an open file of gRPC as a socket. Raises OSError where it is none."""
    used = socket.socket(fileno=file)
    try:
        yield used
    finally:
        used.detach()


def hang_up(connection: Connection) -> None:
    """End a connection; the copy keeps another one from being hit that has got its number."""
    with suppress(OSError, ValueError), socket.socket(fileno=os.dup(connection.file)) as copy:
        name = copy.getpeername()
        if (plain(name[0]), name[1]) == connection.peer:
            connection.ended = True
            if sys.platform == "linux":  # a reset: after a shutdown gRPC would read all that is on its way
                ctypes.CDLL(None).connect(copy.fileno(), bytes(16), 16)
            else:
                copy.shutdown(socket.SHUT_RDWR)


class Strangers:
    """Looks after the connections to a port of this process.

    most: strangers at a time. audit: of those that are turned away, and of those that end by themselves.
    room: connections at a time for which there are files; None: any number.
    """

    def __init__(self, port: int, audit: Audit, most: int = MOST_STRANGERS, room: int | None = None) -> None:
        self._port, self._audit, self._most, self._room = port, audit, most, room
        self._connections: dict[tuple[int, int], Connection] = {}  # by file and the socket's number
        self._others: set[tuple[int, int]] = set()  # files that are no connection to the port
        self._known: set[Peer] = set()
        self._lock = threading.RLock()
        self._wake, self._closed = threading.Event(), False
        self._credit, self._credited = 1.0, 0.0  # seconds whose share is left for looks at handshakes; since
        self._thread = threading.Thread(target=self._watch, name="splitft-strangers", daemon=True)
        self._thread.start()

    def recognise(self, peer: Peer) -> None:
        """Note that a connection is of a client of the run."""
        with self._lock:
            self._known.add(peer)
            for connection in self._connections.values():
                if connection.peer == peer:
                    connection.known = True

    def end(self, peer: Peer) -> None:
        """Hang up on a connection: gRPC would wait until the other end has read that it is over."""
        with self._lock:
            if all(connection.peer != peer for connection in self._connections.values()):
                self._look()  # as long as it is known: a client that leaves is no stranger
            self._known.discard(peer)
            for connection in self._connections.values():
                if connection.peer == peer:
                    hang_up(connection)

    def look_now(self) -> None:
        """Take in a new connection, which may be gone in a moment; called in a thread of gRPC.

        Soon instead, where looking at handshakes has taken more than its share of time.
        """
        with self._lock:
            now = time.monotonic()
            self._credit = min(1.0, self._credit + now - self._credited)
            self._credited = now
            if self._credit > 0.0:
                self._look()
                self._credit -= (time.monotonic() - now) / HANDSHAKE_SHARE
        self._wake.set()

    def close(self) -> None:
        """Stop."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed:
            began = time.monotonic()
            with self._lock:
                strangers = self._look()
                self._judge(strangers)
            taken = time.monotonic() - began  # with thousands of files open, several milliseconds
            if strangers:
                time.sleep(max(LOOK_SECONDS, LOOK_REST * taken))
            else:
                self._wake.wait(max(SCAN_SECONDS, SCAN_REST * taken))
            self._wake.clear()

    def _look(self) -> list[Connection]:
        """Take in which connections there are; return the strangers, oldest first."""
        # Which files are open; a number that is used again has another socket.
        there = set()
        with suppress(OSError):
            for name in os.listdir(FILES):  # noqa: PTH208 (many, often)
                with suppress(OSError):
                    there.add((int(name), os.fstat(int(name)).st_ino))
        if not there:  # no file was left to read the list with, or the system has none
            return [one for one in self._connections.values() if not (one.known or one.ended)]
        self._others &= there
        for key in self._connections.keys() - there:
            gone = self._connections.pop(key)
            if not (gone.known or gone.ended):
                self._audit(gone.peer[0], LEFT)
        # New ones, and the bytes of strangers.
        now = time.monotonic()
        for key in sorted(there - self._others):
            connection = self._connections.get(key)
            if connection is not None and connection.known:
                continue
            with suppress(OSError, ValueError), borrowed(key[0]) as used:
                if connection is None:
                    connection = self._found(used, key[0], now)
                if connection is not None and hasattr(socket, "TCP_INFO"):
                    info = used.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES)
                    connection.sent = int.from_bytes(info[BYTES_AT:INFO_BYTES], "little")
            if connection is None:
                self._others.add(key)
            else:
                self._connections[key] = connection
        return [one for one in self._connections.values() if not (one.known or one.ended)]

    def _found(self, used: socket.socket, file: int, now: float) -> Connection | None:
        """Return a new connection, None where the socket is something else."""
        if used.family not in (socket.AF_INET, socket.AF_INET6) or used.getsockname()[1] != self._port:
            return None
        name = used.getpeername()  # an OSError at the socket that listens
        peer = plain(name[0]), int(name[1])
        return Connection(file, peer, now, known=peer in self._known)

    def _judge(self, strangers: list[Connection]) -> None:
        """End the connections of strangers that are beyond a bound."""
        now = time.monotonic()
        for one in strangers:
            if one.sent > STRANGER_BYTES:
                self._turn_away(one, f"it sent more than {STRANGER_BYTES} bytes and had not said who it is")
            elif now - one.since > STRANGER_SECONDS:
                reason = f"it had not said who it is within {STRANGER_SECONDS:g} seconds"
                self._turn_away(one, reason)
        left = [one for one in strangers if not one.ended]
        over = len(self._connections) - self._room if self._room is not None else 0
        for one in sorted(left, key=lambda one: -one.since)[: max(0, over)]:
            left.remove(one)
            self._turn_away(one, FULL)
        held = Counter(source(one.peer[0]) for one in left)
        while len(left) > self._most:
            greediest = held.most_common(1)[0][0]
            newest = max((one for one in left if source(one.peer[0]) == greediest), key=lambda one: one.since)
            left.remove(newest)
            held[greediest] -= 1
            self._turn_away(newest, "too many others of this address had not said who they are")

    def _turn_away(self, connection: Connection, reason: str) -> None:
        hang_up(connection)
        self._audit(connection.peer[0], reason)
