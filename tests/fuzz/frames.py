"""Connections from their first byte on: frames, hello and welcome, sessions; at a server and at a dialler."""

from __future__ import annotations

import asyncio
import random
import struct
import zlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fuzz.jobs import NAMES
from fuzz.mutations import damaged, mutate, one_of_each
from simulation.disk import MemoryDisk
from splitft.engines.network.control import (
    PROTOCOL,
    SCHEMA,
    End,
    Hello,
    Refused,
    Welcome,
    packed,
)
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.delivery import (
    PIECE_BYTES,
    BrokenError,
    Delivery,
    Frame,
    Kind,
    ViolationError,
)
from splitft.engines.network.transport.dialler import Dialler, Item
from splitft.engines.network.transport.link import Read, Write
from splitft.engines.network.transport.listener import read_hello
from splitft.engines.network.transport.peers import Peers

TOKEN = "0123456789abcdef"
MOST_PAYLOAD = 1 << 20
_SIZE = struct.Struct("<I")
_SUM = slice(21, 25)  # of a frame: the CRC of its piece


def joined(frames: Sequence[bytes]) -> bytes:
    """Return frames as one input; an empty one ends a connection."""
    return b"".join(_SIZE.pack(len(frame)) + frame for frame in frames)


def divided(data: bytes) -> list[bytes]:
    """Undo `joined`, whatever the bytes."""
    frames = []
    while data:
        (size,) = _SIZE.unpack(data[:4].ljust(4, b"\0"))
        frames.append(data[4 : 4 + size])
        data = data[4 + size :]
    return frames


@cache
def pieces() -> list[bytes]:
    """Return frames of a session, most of them in order."""
    session, found = Delivery(MOST_PAYLOAD), list[bytes]()
    for payload in (b"", b"x", bytes(300), bytes(range(256)) * 4, packed(End("over", True))):
        found += [frame.encode() for frame in session.send(payload)]
    numbers = [
        (n, m, t) for n in (0, 1, 2, 3, 1 << 63) for m in (0, 1, 5, (1 << 64) - 1) for t in (0, 3, 1 << 31)
    ]
    return found + [Frame(kind, n, m, t, b"abc").encode() for kind in Kind for n, m, t in numbers]


@cache
def large() -> list[bytes]:
    """Return the frames of a payload in two pieces."""
    return [frame.encode() for frame in Delivery(MOST_PAYLOAD).send(bytes(PIECE_BYTES + 7))]


def hello(name: str = NAMES[0], session: str = "") -> Hello:
    return Hello(PROTOCOL, name, TOKEN, "ab" * 16, session, 0, SCHEMA, "0.1.0")


def first_frame(payload: bytes) -> bytes:
    return Frame(Kind.HELLO, 0, 0, 0, payload).encode()


def script(first: Sequence[object], rng: random.Random) -> list[bytes]:
    """Return the frames of one connection, some of them damaged, half of these with a sum that fits."""
    if rng.random() < 0.5:
        said = rng.choice((*first, *first, *one_of_each()))
        frames = [first_frame(damaged(said, rng) if rng.random() < 0.7 else packed(said))]  # type: ignore[arg-type]
    else:
        frames = [first_frame(packed(rng.choice(first)))]  # type: ignore[arg-type]
    frames += (
        rng.sample(pieces(), rng.choice((0, 1, 1, 2, 3)))
        if rng.random() < 0.6
        else pieces()[: rng.randrange(7)]
    )
    frames += large() if rng.random() < 0.01 else []
    for place, frame in enumerate(frames):
        if rng.random() < 0.4:
            frame = mutate(rng, [frame])
            if rng.random() < 0.6 and len(frame) >= _SUM.stop:
                piece = frame[_SUM.stop :]
                frame = frame[: _SUM.start] + struct.pack("<I", zlib.crc32(piece)) + piece
            frames[place] = frame
    return frames


@cache
def loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def reader(frames: deque[bytes]) -> Read:
    async def read() -> bytes:
        if not frames or not frames[0]:
            raise EOFError("it ended")
        return frames.popleft()

    return read


async def write(data: bytes) -> None:
    """Take a frame."""


class ConnectionTarget:
    """What a stranger, and then a client, can send over connections to a server."""

    def __init__(self) -> None:
        kept: Any = MemoryDisk(lambda what: None).root("run")
        audit = AuditLog(kept, lambda line: None)
        self._door = Admission(NAMES, dict.fromkeys(NAMES, TOKEN), False, audit)

    def generate(self, rng: random.Random) -> bytes:
        said = [hello(), hello(NAMES[1]), hello("\x00"), hello(session="ab" * 16)]
        frames = script(said, rng)
        return joined([*frames, b"", *script(said, rng)] if rng.random() < 0.2 else frames)

    def run(self, data: bytes) -> str:
        left, outcome, peers = deque(divided(data)), "nothing", Peers(Welcome(job="{}"), MOST_PAYLOAD)
        while left:
            outcome = self._connection(left, peers)
            while left and left.popleft():
                pass
        return outcome

    def _connection(self, left: deque[bytes], peers: Peers) -> str:
        try:
            said = read_hello(left.popleft())
        except ValueError:
            return "unread"
        if self._door.admit(said, "", "somewhere") or peers.refusal(said):
            return "refused"
        assert self._door.tokens[said.name] == said.token
        peer, _ = peers.meet(said)
        received = said.received if said.session == peer.session else 0
        try:
            loop().run_until_complete(peer.link.carry(reader(left), write, received))
        except BrokenError:
            return "broken"
        except ViolationError:
            return "violation"
        return "carried"


class ScriptedDialler(Dialler):
    """A dialler whose connections are frames."""

    def __init__(self, frames: deque[bytes]) -> None:
        self._frames = frames
        super().__init__("server:1", None, NAMES[0], "", MOST_PAYLOAD)

    def _start(self) -> None:
        self._loop = loop()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[Read, Write]]:
        yield reader(self._frames), write

    def connect(self) -> bool:
        """Open a connection; return whether to dial again at its end."""
        return loop().run_until_complete(self._connect())


class DiallerTarget:
    """What a server can send to a client over connections."""

    def generate(self, rng: random.Random) -> bytes:
        said = [Welcome("ab" * 16, 0, "{}"), Welcome("cd" * 16, 1), Refused("no", False), End("over", True)]
        frames = script(said[:2] if rng.random() < 0.8 else said, rng)
        return joined([*frames, b"", *script(said, rng)] if rng.random() < 0.3 else frames)

    def run(self, data: bytes) -> str:
        left = deque(divided(data))
        dialler, outcome, again = ScriptedDialler(left), "nothing", True
        while left and again:
            try:
                again, outcome = dialler.connect(), "told"
            except ViolationError:
                again, outcome = False, "violation"
            except BrokenError:
                outcome = "broken"
            except (ValueError, EOFError):
                outcome = "unread"
            while left and left.popleft():
                pass
        while not dialler.incoming.empty():
            item: Item = dialler.incoming.get()
            assert isinstance(item, bytes | Welcome | Refused | End)
            assert not isinstance(item, Refused | End) or item.reason.isprintable()
        return outcome
