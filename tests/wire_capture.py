"""What a capture of a connection holds: every message of it, read from the bytes of HTTP/2."""

from __future__ import annotations

from collections.abc import Iterator

from raw_http2 import DATA, PREFACE
from splitft.engines.network.control import WIRE, Said
from splitft.engines.network.transport.delivery import Frame, Kind, decode_frame

HEAD, PREFIX = 9, 5  # bytes before the payload of an HTTP/2 frame, and before a message of gRPC


def messages_of(captured: bytes) -> tuple[list[Said], int]:
    """Return the messages of one direction of one connection, and the bytes that they make up."""
    messages: list[Said] = []
    pieces, size = b"", 0
    for frame in _frames(_stream(captured)):
        if frame.kind is Kind.BEAT:
            continue
        pieces += bytes(frame.piece)
        if frame.kind is Kind.HELLO or len(pieces) == frame.total:
            messages.append(WIRE.decode(pieces))
            size, pieces = size + len(pieces), b""
    assert not pieces, "a message is not whole"
    return messages, size


def _stream(captured: bytes) -> bytes:
    """Return what crossed in DATA frames, of whatever stream: there is one."""
    found, place = b"", len(PREFACE) if captured.startswith(PREFACE) else 0
    while place + HEAD <= len(captured):
        length, kind = int.from_bytes(captured[place : place + 3], "big"), captured[place + 3]
        if kind == DATA:
            found += captured[place + HEAD : place + HEAD + length]
        place += HEAD + length
    return found


def _frames(stream: bytes) -> Iterator[Frame]:
    place = 0
    while place + PREFIX <= len(stream):
        assert not stream[place], "a compressed message"
        length = int.from_bytes(stream[place + 1 : place + PREFIX], "big")
        yield decode_frame(stream[place + PREFIX : place + PREFIX + length])
        place += PREFIX + length
