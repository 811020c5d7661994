"""Delivery: payloads in order and exactly once, over connections that may break at any moment.

Payloads travel in pieces, each a sign of life on a slow link. A frame is one write on a connection: a header
of 25 bytes (kind, sequence number, acknowledgement, length of the whole payload, CRC-32 of the piece) and a
piece of at most PIECE_BYTES.

Both ends of a session hold a `Delivery`. It outlives connections: pieces without an acknowledgement are sent
again on the next one. Pure: no reading, no writing, no clock.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

PIECE_BYTES = 1 << 18
_HEADER = struct.Struct("<BQQII")
MAX_FRAME_BYTES = _HEADER.size + PIECE_BYTES


class Kind(IntEnum):
    """Kinds of frames."""

    HELLO = 1  # first on a connection
    DATA = 2  # a piece of a payload
    BEAT = 3  # an acknowledgement alone


@dataclass(frozen=True)
class Frame:
    """One write."""

    kind: Kind
    number: int  # of its piece, from 1 on; of a beat: of the last piece
    received: int  # the acknowledgement
    total: int  # bytes of the whole payload
    piece: bytes | memoryview = b""

    def encode(self, received: int | None = None) -> bytes:
        """Return the frame as bytes. received: the acknowledgement, in the place of its own."""
        crc, received = zlib.crc32(self.piece), self.received if received is None else received
        return _HEADER.pack(self.kind, self.number, received, self.total, crc) + self.piece


def decode_frame(data: bytes) -> Frame:
    """Return the frame of these bytes. Raises ValueError where they are not one, or were damaged."""
    if not _HEADER.size <= len(data) <= MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(data)} bytes")
    kind, number, received, total, crc = _HEADER.unpack_from(data)
    piece = memoryview(data)[_HEADER.size :]
    if crc != zlib.crc32(piece):
        raise ValueError("a frame was damaged on its way")
    return Frame(Kind(kind), number, received, total, piece)


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
        self.waiting: deque[Frame] = deque()  # sent, and not yet acknowledged
        self.waiting_bytes = 0
        self._pieces: list[bytes] = []
        self._size = 0

    def send(self, payload: bytes) -> Iterator[Frame]:
        """Accept a payload; yield its frames, to be written now if there is a connection."""
        view = memoryview(payload)
        for start in range(0, len(view) or 1, PIECE_BYTES):
            self.sent += 1
            frame = Frame(Kind.DATA, self.sent, 0, len(view), view[start : start + PIECE_BYTES])
            self.waiting.append(frame)
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
        while self.waiting and self.waiting[0].number <= received:
            self.waiting_bytes -= len(self.waiting.popleft().piece)

    def again(self, received: int) -> list[Frame]:
        """Return the frames after piece `received`, for a new connection.

        Raises ViolationError where the other end states more than was sent, or less than it acknowledged.
        """
        self.acknowledge(received)
        if self.waiting and self.waiting[0].number != received + 1:
            raise ViolationError(f"piece {received} was acknowledged before")
        return list(self.waiting)
