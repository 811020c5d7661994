"""The page of metrics: text of Prometheus at /metrics, over plain HTTP, for whoever reaches the port.

It bounds strangers: few connections, each with one short request and some seconds; the figures are read at
most once a second, however often they are asked for.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from splitft.engines.network.transport.credentials import is_loopback
from splitft.errors import NetworkError
from splitft.running.plane.figures import Figures

MOST_CONNECTIONS, MOST_BYTES, SECONDS = 8, 8192, 5.0  # at a time; of a request's head; for each half
FRESH_SECONDS = 1.0  # for which figures that were read are told again
TRIES = 5  # at reading figures that change meanwhile

Source = Callable[[Figures], None]


class MetricsPage:
    """Serves metrics from a thread of its own. Raises NetworkError where the address cannot be had.

    address: HOST:PORT; port 0 takes a free one.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host = host.strip("[]")
        self.is_open = not is_loopback(self._host)  # to others than this machine
        self._sources: list[Source] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Sources(self._sources))
        ProcessCollector(registry=self._registry)  # memory, seconds of computing, open files
        self._read_at, self._text, self._lock = -FRESH_SECONDS, b"", threading.Lock()
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            self._socket = socket.create_server((self._host, int(port)), family=family, backlog=16)
        except OSError as error:
            reason = str(error.strerror or error).split(" (")[0].lower()
            raise NetworkError(
                f"cannot listen at {address}: {reason}; choose another with --metrics"
            ) from None
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, name="splitft-metrics", daemon=True).start()

    def add(self, source: Source) -> None:
        """Have a function tell its figures, too."""
        self._sources.append(source)

    def close(self) -> None:
        """Stop serving."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except ConnectionError:
                continue
            except OSError:  # closed; or no file is free, and a scrape less is no harm
                if self._socket.fileno() < 0:
                    return
                time.sleep(FRESH_SECONDS)
                continue
            if self._room.acquire(blocking=False):
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
            else:
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):
                answer = self._answered(_head(connection))
                connection.settimeout(SECONDS)
                connection.sendall(answer)
        finally:
            self._room.release()

    def _answered(self, head: str) -> bytes:
        """Return the answer to a request. A page in a browser here cannot read along by a name of its own."""
        first, *fields = head.split("\r\n")
        host = next((line[5:].strip() for line in fields if line[:5].lower() == "host:"), "")
        method, _, rest = first.partition(" ")
        if method != "GET" or rest.split("?")[0].split(" ")[0] != "/metrics":
            return _response("404 Not Found", "text/plain", b"GET /metrics\n")
        if not self.is_open and not is_loopback(host.rpartition(":")[0] if _has_port(host) else host):
            return _response("403 Forbidden", "text/plain", b"this page is for localhost alone\n")
        return _response("200 OK", CONTENT_TYPE_LATEST, self._now())

    def _now(self) -> bytes:
        """Return the text of all figures, at most a second old."""
        with self._lock:
            if time.monotonic() - self._read_at >= FRESH_SECONDS:
                for left in reversed(range(TRIES)):
                    try:
                        self._text = generate_latest(self._registry)
                        break
                    except RuntimeError:  # the run has put something new into a mapping just now
                        if not left:
                            raise
                self._read_at = time.monotonic()
            return self._text


class _Sources:
    """All sources, as Prometheus' library collects them."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Any]:
        figures = Figures()
        for source in list(self._sources):
            source(figures)
        yield from figures.families()


def _head(connection: socket.socket) -> str:
    """Return the head of a request. Raises OSError where none comes in time, or it is too long."""
    came, deadline = b"", time.monotonic() + SECONDS
    while b"\r\n\r\n" not in came:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        more = connection.recv(MOST_BYTES)
        came += more
        if not more or len(came) > MOST_BYTES or time.monotonic() > deadline:
            raise ConnectionError("no request")
    return came.partition(b"\r\n\r\n")[0].decode("latin-1")


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdigit() and not host.endswith("]")


def _response(status: str, kind: str, body: bytes) -> bytes:
    fields = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body
