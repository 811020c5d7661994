"""A link: reading and writing of one session, over one connection after another; for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from splitft.common.failpoints import failpoint
from splitft.engines.network.transport.delivery import (
    BrokenError,
    Delivery,
    Frame,
    Kind,
    ViolationError,
    decode_frame,
)

BEAT_SECONDS = 2.0  # longest time between two frames
SILENCE_SECONDS = 8.0  # without a frame from the other end, or one taken by it: the connection is broken
MOST_STALLS = 3  # connections in a row on which the other end took nothing: a violation

Read = Callable[[], Awaitable[bytes]]  # raises EOFError where the connection has ended
Write = Callable[[bytes], Awaitable[None]]
Room = Callable[[], Awaitable[object]]  # returns when there is room for more frames


def reader_of(call: Any) -> Read:
    """Return a function that reads the next message of a gRPC call, at either end."""

    async def read() -> bytes:
        data = await call.read()
        if data is grpc.aio.EOF:
            raise EOFError("it ended")
        return bytes(data)

    return read


@dataclass(eq=False)
class Link:
    """One session's reading and writing."""

    session: Delivery
    deliver: Callable[[bytes], None]  # receives every payload, in order and once
    place: str  # prefix of the names of failpoints
    room: Room | None = None  # awaited before more is read; None: there is always room
    queued_bytes: int = field(default=0, init=False)  # of pieces, for this connection, and not yet written
    _stalls: int = field(default=0, init=False)  # in a row
    _stalled_at: int = field(default=-1, init=False)  # acknowledged pieces at the last of them
    _outgoing: asyncio.Queue[Frame] | None = field(default=None, init=False)  # None: no connection

    @property
    def connected(self) -> bool:
        return self._outgoing is not None

    def send(self, payload: bytes) -> None:
        """Send a payload, now or on the next connection. To be called in the event loop."""
        for frame in self.session.send(payload):
            if self._outgoing is not None:
                self._queue(self._outgoing, frame)

    def beat(self) -> None:
        """Send an acknowledgement now. To be called in the event loop."""
        if self._outgoing is not None:
            self._queue(self._outgoing, Frame(Kind.BEAT, self.session.sent, 0, 0))

    async def carry(self, read: Read, write: Write, received: int) -> None:
        """Carry frames over a connection until it ends. received: the last piece that the other end has.

        Raises BrokenError where it broke, ViolationError where the other end breaks the protocol, and errors
        of `read` and `write`.
        """
        outgoing: asyncio.Queue[Frame] = asyncio.Queue()
        self.queued_bytes = 0
        for frame in self.session.again(received):
            self._queue(outgoing, frame)
        self._outgoing = outgoing
        tasks = [
            asyncio.ensure_future(self._read(outgoing, read)),
            asyncio.ensure_future(self._write(outgoing, write)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:  # in this order where both have ended
                if task in done and not task.cancelled():  # gRPC gives up one half of a call with the other
                    task.result()
            raise BrokenError("the connection was given up")
        finally:
            self._outgoing = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _queue(self, outgoing: asyncio.Queue[Frame], frame: Frame) -> None:
        self.queued_bytes += len(frame.piece)
        outgoing.put_nowait(frame)

    async def _read(self, outgoing: asyncio.Queue[Frame], read: Read) -> None:
        while self._outgoing is outgoing:  # asyncio can lose a cancellation to a frame at that moment
            if self.room is not None:
                await self.room()
            try:
                data = await asyncio.wait_for(read(), SILENCE_SECONDS)
                frame = decode_frame(data)
            except asyncio.TimeoutError:
                raise BrokenError(f"nothing came for {SILENCE_SECONDS:g} seconds") from None
            except (EOFError, ValueError) as error:
                raise BrokenError(str(error) or "the connection ended") from None
            action = failpoint(f"{self.place}.take") if frame.kind is Kind.DATA else None
            if action == "drop":
                continue
            for _ in range(2 if action == "duplicate" else 1):
                payload = self.session.take(frame)
                if payload is not None:
                    self.deliver(payload)

    async def _write(self, outgoing: asyncio.Queue[Frame], write: Write) -> None:
        waiting: asyncio.Future[Frame] = asyncio.ensure_future(outgoing.get())
        try:
            while self._outgoing is outgoing:
                done, _ = await asyncio.wait({waiting}, timeout=BEAT_SECONDS)
                frame = waiting.result() if done else Frame(Kind.BEAT, self.session.sent, 0, 0)
                if done:
                    waiting = asyncio.ensure_future(outgoing.get())
                data = replace(frame, received=self.session.received).encode()
                action = failpoint(f"{self.place}.send") if frame.kind is Kind.DATA else None
                if action == "drop":
                    self.queued_bytes -= len(frame.piece)
                    continue
                if action == "corrupt":
                    data = data[:-1] + bytes([data[-1] ^ 1])
                for _ in range(2 if action == "duplicate" else 1):
                    await self._through(write(data))
                self.queued_bytes -= len(frame.piece)
        finally:
            waiting.cancel()

    async def _through(self, written: Awaitable[None]) -> None:
        """Wait until a frame is written. Raises BrokenError where the other end takes nothing."""
        try:
            await asyncio.wait_for(written, SILENCE_SECONDS)
        except asyncio.TimeoutError:
            acknowledged = self.session.sent - len(self.session.waiting)
            self._stalls = self._stalls + 1 if self._stalled_at == acknowledged else 1
            self._stalled_at = acknowledged
            reason = f"nothing could be sent to it for {SILENCE_SECONDS:g} seconds"
            if self._stalls >= MOST_STALLS:
                raise ViolationError(f"{reason}, {MOST_STALLS} times in a row") from None
            raise BrokenError(reason) from None
