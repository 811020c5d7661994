"""However a connection ends, both ends see that it has, and the session goes on over the next one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import splitft.engines.network.transport.dialler as dialler_module
from splitft.engines.network.control import End, Welcome
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.delivery import BrokenError, Delivery
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.link import Link
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.peers import Event

LIMIT = 1 << 20
ENDS = [  # what gRPC raises where a connection ends under a read or write, and what it never did
    asyncio.InvalidStateError("the call is over"),
    grpc.aio.UsageError("the call is over"),
    asyncio.CancelledError("the other half was given up"),
    RuntimeError("something else"),
]


async def forever() -> Any:
    await asyncio.Event().wait()


async def nothing(_: bytes) -> None:
    pass


def ending(error: BaseException) -> Callable[..., Any]:
    async def end(*_: Any) -> Any:
        await asyncio.sleep(0)
        raise error

    return end


@pytest.mark.parametrize("half", ["read", "write", "both"])
def test_a_half_that_is_cancelled_from_below_breaks_the_connection(half: str) -> None:
    """gRPC cancels a whole call where one operation on it is given up: the other half sees a cancellation."""
    cancelled = ending(asyncio.CancelledError())
    link = Link(Delivery(LIMIT), lambda payload: None, "client")

    async def carry() -> None:
        link.send(b"something to write")
        read, write = forever if half == "write" else cancelled, nothing if half == "read" else cancelled
        await asyncio.wait_for(link.carry(read, write, 0), 5)

    with pytest.raises(BrokenError):
        asyncio.run(carry())
    assert not link.connected


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    door = Admission(("alice",), {}, False, AuditLog(tmp_path, lambda line: None))
    made = Listener("127.0.0.1:0", None, door, Welcome(job="{}"), LIMIT)
    yield made
    made.close(0)


def until(listener: Listener, kind: str) -> Event:
    deadline = time.monotonic() + 20
    while (event := listener.events.get(timeout=deadline - time.monotonic())).kind != kind:
        pass
    return event


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("half", ["read", "write"])
@pytest.mark.parametrize("place", ["client", "server"])
def test_a_session_goes_on_whatever_ended_its_connection(
    place: str, half: str, error: BaseException, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry, broken = Link.carry, []

    async def carry_badly_once(link: Link, read: Any, write: Any, received: int) -> None:
        if link.place == place and not broken:
            broken.append(place)
            read, write = (ending(error), write) if half == "read" else (read, ending(error))
        await carry(link, read, write, received)

    monkeypatch.setattr(Link, "carry", carry_badly_once)
    dialler = Dialler(f"127.0.0.1:{listener.port}", None, "alice", "", LIMIT)
    try:
        welcome = dialler.incoming.get(timeout=20)
        assert isinstance(welcome, Welcome)
        dialler.send(welcome.session, b"up")
        listener.send("alice", b"down")
        assert dialler.incoming.get(timeout=20) == b"down"
        assert until(listener, "said").payload == b"up"
        assert broken
    finally:
        dialler.close(0)


@pytest.mark.parametrize(("error", "reason"), [
    (RuntimeError("unknown"), "unknown"),
    (asyncio.CancelledError(), "the connection was closed"),  # gRPC, where the client's process has ended
], ids=["an error", "cancelled"])  # fmt: skip
def test_the_server_sees_that_a_client_is_away_whatever_ended_its_connection(
    error: BaseException, reason: str, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry = Link.carry

    async def carry_badly(link: Link, read: Any, write: Any, received: int) -> None:
        await (ending(error)() if link.place == "server" else carry(link, read, write, received))

    monkeypatch.setattr(Link, "carry", carry_badly)
    dialler = Dialler(f"127.0.0.1:{listener.port}", None, "alice", "", LIMIT)
    try:
        assert until(listener, "away").reason == reason
    finally:
        dialler.close(0)


def test_the_end_counts_as_told_to_a_client_that_has_said_so(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose connection breaks as the end is told dials again, and the server is still there."""
    confirm, broken, told = dialler_module._confirm, list[str](), list[str]()

    async def break_once(read: Any, write: Any) -> None:
        if not broken:
            broken.append("as if the end had not arrived")
            raise ConnectionError(*broken)
        assert not told
        await confirm(read, write)

    monkeypatch.setattr(dialler_module, "_confirm", break_once)
    over = End("over", True)
    with ThreadPoolExecutor(1) as pool:
        telling = pool.submit(listener.tell_end, over, ["alice"], 20.0, told.append)
        while listener._end is None:
            time.sleep(0.01)
        dialler = Dialler(f"127.0.0.1:{listener.port}", None, "alice", "", LIMIT)
        try:
            assert dialler.incoming.get(timeout=20) == over
            assert telling.result(20) == [] and told == ["alice"] and broken
        finally:
            dialler.close(0)
