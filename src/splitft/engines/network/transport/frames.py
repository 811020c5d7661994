"""Frames: the writes on a connection. Payloads travel in pieces, each a sign of life on a slow link.

A frame is a header of 25 bytes (kind, sequence number, acknowledgement, length of the whole payload, CRC-32
of the piece) and a piece of at most PIECE_BYTES.
"""

from __future__ import annotations

import struct
import zlib
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

    def encode(self) -> bytes:
        """Return the frame as bytes."""
        crc = zlib.crc32(self.piece)
        return _HEADER.pack(self.kind, self.number, self.received, self.total, crc) + self.piece


def decode_frame(data: bytes) -> Frame:
    """Return the frame of these bytes. Raises ValueError where they are not one, or were damaged."""
    if not _HEADER.size <= len(data) <= MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {len(data)} bytes")
    kind, number, received, total, crc = _HEADER.unpack_from(data)
    piece = memoryview(data)[_HEADER.size :]
    if crc != zlib.crc32(piece):
        raise ValueError("a frame was damaged on its way")
    return Frame(Kind(kind), number, received, total, piece)
