"""Delivery: payloads in order and exactly once, over connections that may break at any moment.

Both ends of a session hold one. It outlives connections: pieces without an acknowledgement are sent again on
the next one. Pure: no reading, no writing, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from splitft.engines.network.transport.frames import PIECE_BYTES, Frame, Kind


class BrokenError(Exception):
    """The connection is broken; the session continues on the next one."""


class ViolationError(Exception):
    """The other end breaks the protocol; the session is over."""


class Delivery:
    """One end of a session. max_payload: bytes of the largest payload that may come."""

    def __init__(self, max_payload: int) -> None:
        self.max_payload = max_payload
        self.received = 0  # number of the last piece that came
        self.sent = 0  # number of the last piece that was sent
        self._waiting: deque[Frame] = deque()  # sent, and not yet acknowledged
        self.waiting_bytes = 0
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def waiting(self) -> int:
        """Number of pieces without an acknowledgement."""
        return len(self._waiting)

    def send(self, payload: bytes) -> Iterator[Frame]:
        """Accept a payload; yield its frames, to be written now if there is a connection."""
        view = memoryview(payload)
        for start in range(0, len(view) or 1, PIECE_BYTES):
            self.sent += 1
            frame = Frame(Kind.DATA, self.sent, 0, len(view), view[start : start + PIECE_BYTES])
            self._waiting.append(frame)
            self.waiting_bytes += len(frame.piece)
            yield frame

    def take(self, frame: Frame) -> bytes | None:
        """Take in a frame; return the payload that it completes.

        Raises BrokenError where pieces were lost on the way, ViolationError where a frame is not allowed.
        """
        self.acknowledge(frame.received)
        newest = frame.number - 1 if frame.kind is Kind.DATA else frame.number  # of the pieces before it
        if newest > self.received:
            raise BrokenError(f"pieces {self.received + 1} to {newest} are missing")
        if frame.kind is not Kind.DATA or frame.number <= self.received:  # a beat, or a piece again
            return None
        if frame.total > self.max_payload:
            raise ViolationError(f"a payload of {frame.total} bytes; at most {self.max_payload} may come")
        if len(frame.piece) != min(PIECE_BYTES, frame.total - self._size):  # small ones would cost memory
            raise ViolationError("a piece does not have the length that its payload states")
        self.received = frame.number
        self._pieces.append(bytes(frame.piece))
        self._size += len(frame.piece)
        if self._size < frame.total:
            return None
        payload = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        return payload

    def acknowledge(self, received: int) -> None:
        """Note that the other end has all pieces up to this one. Raises ViolationError where it cannot."""
        if received > self.sent:
            raise ViolationError(f"piece {received} was acknowledged, {self.sent} were sent")
        while self._waiting and self._waiting[0].number <= received:
            self.waiting_bytes -= len(self._waiting.popleft().piece)

    def again(self, received: int) -> list[Frame]:
        """Return the frames after piece `received`, for a new connection.

        Raises ViolationError where the other end states more than was sent, or less than it acknowledged.
        """
        self.acknowledge(received)
        if self._waiting and self._waiting[0].number != received + 1:
            raise ViolationError(f"piece {received} was acknowledged before")
        return list(self._waiting)
