"""Sessions: in order and exactly once, whatever connections do; and nothing that comes may break them."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitft.engines.network.transport.delivery import (
    MAX_FRAME_BYTES,
    PIECE_BYTES,
    BrokenError,
    Delivery,
    Frame,
    Kind,
    ViolationError,
    decode_frame,
)

LIMIT = 4 * PIECE_BYTES


class Pipe:
    """Two sessions and the frames between them; a connection can be cut, frames lost and doubled."""

    def __init__(self) -> None:
        self.ends = (Delivery(LIMIT), Delivery(LIMIT))
        self.ways: tuple[deque[bytes], deque[bytes]] = (deque(), deque())  # from end 0, from end 1
        self.got: tuple[list[bytes], list[bytes]] = ([], [])

    def send(self, end: int, payload: bytes) -> None:
        for frame in self.ends[end].send(payload):
            self.write(end, frame)

    def write(self, end: int, frame: Frame) -> None:
        received = self.ends[end].received
        self.ways[end].append(Frame(frame.kind, frame.number, received, frame.total, frame.piece).encode())

    def deliver(self, end: int) -> None:
        """The oldest frame on its way to this end arrives."""
        way = self.ways[1 - end]
        if way:
            try:
                payload = self.ends[end].take(decode_frame(way.popleft()))
            except (BrokenError, ValueError):
                self.reconnect()
                return
            if payload is not None:
                self.got[end].append(payload)

    def reconnect(self) -> None:
        """All that is under way is lost; both ends say what they have, and send what the other lacks."""
        for way in self.ways:
            way.clear()
        for end in (0, 1):
            for frame in self.ends[end].again(self.ends[1 - end].received):
                self.write(end, frame)

    def settle(self) -> None:
        self.reconnect()
        while any(self.ways):
            for end in (0, 1):
                self.deliver(end)


payloads = st.one_of(
    st.binary(max_size=20), st.sampled_from([b"x" * PIECE_BYTES, b"y" * (2 * PIECE_BYTES + 7)])
)
steps = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 1), payloads),
    st.tuples(
        st.sampled_from(["deliver", "drop", "double", "damage", "beat"]), st.integers(0, 1), st.just(b"")
    ),
    st.tuples(st.just("reconnect"), st.just(0), st.just(b"")),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=60))
def test_every_payload_arrives_once_and_in_order(schedule: list[tuple[str, int, bytes]]) -> None:
    pipe, sent = Pipe(), ([], [])  # type: ignore[var-annotated]
    for what, end, payload in schedule:
        way = pipe.ways[end]
        if what == "send":
            sent[end].append(payload)
            pipe.send(end, payload)
        elif what == "deliver":
            pipe.deliver(end)
        elif what == "drop" and way:
            way.popleft()
        elif what == "double" and way:
            way.appendleft(way[0])
        elif what == "damage" and way:
            way[0] = way[0][:-1] + bytes([way[0][-1] ^ 1])
        elif what == "beat":
            pipe.write(end, Frame(Kind.BEAT, pipe.ends[end].sent, 0, 0))
        elif what == "reconnect":
            pipe.reconnect()
    pipe.settle()
    pipe.settle()
    assert pipe.got[1] == sent[0] and pipe.got[0] == sent[1]
    assert not pipe.ends[0].waiting or len(pipe.ends[0].waiting) <= len(pipe.got[1]) * 3


def test_acknowledged_pieces_are_forgotten() -> None:
    pipe = Pipe()
    pipe.send(0, b"one")
    pipe.deliver(1)
    assert len(pipe.ends[0].waiting) == 1
    pipe.send(1, b"answer")
    pipe.deliver(0)
    assert not pipe.ends[0].waiting


@pytest.mark.parametrize(("frame", "why"), [
    (Frame(Kind.DATA, 1, 0, LIMIT + 1, b"x"), "at most"),
    (Frame(Kind.DATA, 1, 0, 0, b"more"), "length"),
    (Frame(Kind.DATA, 1, 0, 3, b""), "length"),
    (Frame(Kind.DATA, 1, 9, 1, b"x"), "acknowledged"),
])  # fmt: skip
def test_what_no_correct_end_sends_ends_the_session(frame: Frame, why: str) -> None:
    session = Delivery(LIMIT)
    with pytest.raises(ViolationError, match=why):
        session.take(frame)


def test_one_that_forgot_what_it_had_is_not_served() -> None:
    pipe = Pipe()
    pipe.send(0, b"one")
    pipe.deliver(1)
    pipe.send(1, b"two")
    pipe.deliver(0)
    with pytest.raises(ViolationError):
        pipe.ends[1].again(9)
    pipe.send(0, b"three")
    with pytest.raises(ViolationError, match="before"):
        pipe.ends[0].again(0)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_frame_are_told(data: bytes) -> None:
    try:
        decode_frame(data)
    except ValueError:
        return
    assert len(data) >= 25


def test_a_frame_is_never_larger_than_the_connection_takes() -> None:
    frames = list(Delivery(LIMIT).send(b"z" * (3 * PIECE_BYTES + 1)))
    assert [len(frame.piece) for frame in frames] == [PIECE_BYTES] * 3 + [1]
    assert max(len(frame.encode()) for frame in frames) == MAX_FRAME_BYTES
    with pytest.raises(ValueError, match="bytes"):
        decode_frame(b"\0" * (MAX_FRAME_BYTES + 1))
