"""A link: reading and writing of one session, over one connection after another; for an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

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
CLOSED = "the connection was closed"
MOST_STALLS = 3  # connections in a row on which the other end took nothing: a violation

Read = Callable[[], Awaitable[bytes]]  # raises EOFError where the connection has ended
Write = Callable[[bytes], Awaitable[None]]
Room = Callable[[], Awaitable[object]]  # returns when there is room for more frames
T = TypeVar("T")


def in_words(error: BaseException) -> str:
    """Return why a connection is over, in words: never the mere name of an exception."""
    if isinstance(error, asyncio.CancelledError | EOFError | ConnectionError | grpc.aio.UsageError):
        return CLOSED
    if isinstance(error, grpc.aio.AioRpcError):
        return " ".join((error.details() or CLOSED).split())[:200]
    told = " ".join(str(error).split())[:200]
    return told or f"the connection failed ({type(error).__name__})"


async def within(seconds: float, awaited: Awaitable[T]) -> T:
    """Await something in the task at hand. `asyncio.wait_for` starts a task of its own for each frame.

    Raises asyncio.TimeoutError after so many seconds.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    late: list[bool] = []

    def give_up() -> None:
        late.append(True)
        task.cancel()

    timer = loop.call_later(seconds, give_up)
    try:
        return await awaited
    except asyncio.CancelledError:
        if late:
            raise asyncio.TimeoutError from None
        raise
    finally:
        timer.cancel()


class Outgoing:
    """Frames of one connection that are to be written."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._wake()

    async def next(self, seconds: float) -> Frame | None:
        """Return the next frame, or None after so many seconds without one."""
        if not self._frames:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._waiting
            finally:
                timer.cancel()
        return self._frames.popleft() if self._frames else None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def reader_of(call: Any) -> Read:
    """Return a function that reads the next message of a gRPC call, at either end."""

    async def read() -> bytes:
        data = await call.read()
        if data is grpc.aio.EOF:
            raise EOFError(CLOSED)
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
    _outgoing: Outgoing | None = field(default=None, init=False)  # None: no connection

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
        outgoing = Outgoing()
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

    def _queue(self, outgoing: Outgoing, frame: Frame) -> None:
        self.queued_bytes += len(frame.piece)
        outgoing.put(frame)

    async def _read(self, outgoing: Outgoing, read: Read) -> None:
        while self._outgoing is outgoing:  # asyncio can lose a cancellation to a frame at that moment
            if self.room is not None:
                await self.room()
            try:
                data = await within(SILENCE_SECONDS, read())
                frame = decode_frame(data)
            except asyncio.TimeoutError:
                raise BrokenError(f"nothing came for {SILENCE_SECONDS:g} seconds") from None
            except (EOFError, ValueError) as error:
                raise BrokenError(str(error) or CLOSED) from None
            action = failpoint(f"{self.place}.take") if frame.kind is Kind.DATA else None
            if action == "drop":
                continue
            for _ in range(2 if action == "duplicate" else 1):
                payload = self.session.take(frame)
                if payload is not None:
                    self.deliver(payload)

    async def _write(self, outgoing: Outgoing, write: Write) -> None:
        while self._outgoing is outgoing:
            frame = await outgoing.next(BEAT_SECONDS) or Frame(Kind.BEAT, self.session.sent, 0, 0)
            data = frame.encode(self.session.received)
            action = failpoint(f"{self.place}.send") if frame.kind is Kind.DATA else None
            if action == "drop":
                self.queued_bytes -= len(frame.piece)
                continue
            if action == "corrupt":
                data = data[:-1] + bytes([data[-1] ^ 1])
            for _ in range(2 if action == "duplicate" else 1):
                await self._through(write(data))
            self.queued_bytes -= len(frame.piece)

    async def _through(self, written: Awaitable[None]) -> None:
        """Wait until a frame is written. Raises BrokenError where the other end takes nothing."""
        try:
            await within(SILENCE_SECONDS, written)
        except asyncio.TimeoutError:
            acknowledged = self.session.sent - len(self.session.waiting)
            self._stalls = self._stalls + 1 if self._stalled_at == acknowledged else 1
            self._stalled_at = acknowledged
            reason = f"nothing could be sent to it for {SILENCE_SECONDS:g} seconds"
            if self._stalls >= MOST_STALLS:
                raise ViolationError(f"{reason}, {MOST_STALLS} times in a row") from None
            raise BrokenError(reason) from None
