"""An HTTP proxy that knows CONNECT alone, as a hospital's firewall has one; with a password or without."""

from __future__ import annotations

import asyncio
import base64
import threading
from contextlib import suppress


class ConnectProxy:
    """Passes connections on to the places that clients name.

    password: `user:password` that a client must state; empty: none. allowed: whether places may be reached.
    """

    def __init__(self, password: str = "", *, allowed: bool = True) -> None:
        self.asked: list[str] = []  # places, as clients name them
        self.up = self.down = 0  # bytes that passed
        self._open: list[asyncio.StreamWriter] = []
        self._password, self._allowed = password, allowed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = int(asyncio.run_coroutine_threadsafe(self._start(), self._loop).result())

    def close(self) -> None:
        """Stop, and end all connections."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _stop(self) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, place, _ = head.split("\r\n")[0].split(" ")
            self.asked.append(place)
            basic = base64.b64encode(self._password.encode()).decode()
            if method != "CONNECT" or not self._allowed:
                writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
            elif self._password and f"basic {basic}".lower() not in head.lower():
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            else:
                host, _, port = place.rpartition(":")
                inner = await asyncio.open_connection(host.strip("[]"), int(port))
                self._open += [writer, inner[1]]
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(self._pump(reader, inner[1], "up"), self._pump(inner[0], writer, "down"))
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                setattr(self, way, getattr(self, way) + len(data))
                writer.write(data)
                await writer.drain()
        writer.close()
