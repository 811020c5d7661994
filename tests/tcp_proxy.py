"""A TCP proxy between clients and a server that counts, cuts, holds back and slows what passes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

PIECE = 1 << 14  # bytes that cross a slow link as one
MOST_PIECES = 1024  # on their way at a time
AHEAD = 0.02  # seconds of sending that the link takes in before it is free: the buffer at its mouth


class Proxy:
    """Passes on to a port of this machine. up, down: bytes that passed, towards the server and back."""

    def __init__(self, target: int, *, capture: bool = False) -> None:
        self.up = self.down = self.connections = 0
        self.captured: dict[str, bytearray] | None = {} if capture else None  # what passed, each way
        self.bytes_per_second = 0.0  # each way, of all connections; 0: as fast as it goes
        self.delay_seconds = 0.0  # each way
        self._free = dict.fromkeys(("up", "down"), 0.0)  # when the link has sent all that was read
        self._target = target
        self._open = True
        self._flowing = threading.Event()
        self._flowing.set()
        self._transports: set[asyncio.WriteTransport] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port: int = self._call(self._start)

    def cut(self) -> None:
        """Break all connections, and take none until `mend`."""
        self._open = False
        self._loop.call_soon_threadsafe(self._abort)

    def mend(self) -> None:
        """Let connections through again."""
        self._open = True

    def hold(self) -> None:
        """Pass nothing on, and break nothing: a black hole."""
        self._flowing.clear()

    def release(self) -> None:
        """Pass on again."""
        self._flowing.set()

    def close(self) -> None:
        self._flowing.set()
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        self._abort()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _call(self, make: Callable[[], object]) -> int:
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result()  # type: ignore[arg-type]

    async def _start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def _abort(self) -> None:
        for transport in list(self._transports):
            transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        self.connections += 1
        try:
            source, target = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer.transport, target.transport}
        self._transports |= both
        ways = [
            asyncio.ensure_future(self._pump(reader, target, "up")),
            asyncio.ensure_future(self._pump(source, writer, "down")),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for transport in both:
            transport.abort()
        self._transports -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        """Read as fast as the link sends; what is on its way arrives in order, a delay later."""
        crossing: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_PIECES)
        arriving = asyncio.ensure_future(self._deliver(crossing, writer, way))
        clock = asyncio.get_running_loop().time
        try:
            while data := await reader.read(PIECE if self.bytes_per_second else 1 << 16):
                sent = max(self._free[way], clock())
                if self.bytes_per_second:
                    sent += len(data) / self.bytes_per_second
                self._free[way] = sent
                await crossing.put((sent + self.delay_seconds, data))
                await asyncio.sleep(max(0.0, sent - clock() - AHEAD))
                slow = self.bytes_per_second or self.delay_seconds
                if not slow or not self._flowing.is_set():
                    await crossing.join()  # so that who sends feels who does not take
            await crossing.join()
        except OSError:
            pass
        finally:
            arriving.cancel()

    async def _deliver(
        self, crossing: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, way: str
    ) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await crossing.get()
            if due > clock():
                await asyncio.sleep(due - clock())
            while not self._flowing.is_set():
                await asyncio.sleep(0.05)
            setattr(self, way, getattr(self, way) + len(data))
            if self.captured is not None:
                self.captured.setdefault(way, bytearray()).extend(data)
            writer.write(data)
            await writer.drain()
            crossing.task_done()
