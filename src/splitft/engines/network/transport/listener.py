"""The server's end of the network: lets clients in, and keeps one session for each. (ours)

It runs in a thread of its own; what comes is put into a queue for the thread that runs the rounds. Once the
run is over, whoever comes is told so at the door.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from splitft.engines.network.control import WIRE, End, Hello, Refused, Welcome, packed
from splitft.engines.network.transport.delivery import Delivery, ViolationError
from splitft.engines.network.transport.frames import MAX_FRAME_BYTES, Frame, Kind, decode_frame
from splitft.engines.network.transport.link import Link
from splitft.engines.network.transport.tls_front import MOST_STRANGERS, STRANGER_BYTES, Audit, TlsFront
from splitft.errors import NetworkError

SERVICE, METHOD = "splitft.Session", "Exchange"
GRACE_SECONDS = 1.0  # for the last words to somebody who is expelled
HELLO_SECONDS = 5.0  # a connection that has not said who it is by then is closed
MOST_WAITING = 64  # payloads of one client that wait to be used; it is not read from before there is room
MOST_UNREAD = 4  # largest messages that a client has not taken; no correct one comes near
MAX_HELLO_BYTES = 1 << 14  # of the first words of a stranger
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a compressed message could unpack to anything
    ("grpc.so_reuseport", 0),  # a second server on the port is told so
    ("grpc.max_concurrent_streams", 1),  # of a connection: a client needs no more
    ("grpc.use_local_subchannel_pool", 1),  # clients in one process have a connection each
)


@dataclass(frozen=True)
class Event:
    """What happened to a client: joined (a new session), back, away, said (a payload), expelled, gone.

    woken: nothing happened. at: when, by `time.perf_counter`.
    """

    kind: str
    name: str
    session: str = ""
    payload: bytes = b""
    reason: str = ""
    at: float = field(default_factory=time.perf_counter)


@dataclass
class _Peer:
    """A client's session on this server."""

    process: str
    session: str
    link: Link
    heard: float = field(default_factory=time.monotonic)
    waiting: int = 0
    waiting_bytes: int = 0
    room: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None  # that carries its connection

    def note(self, payloads: int, size: int, most_bytes: int) -> None:
        """So many more payloads, or fewer, wait to be used; bound what a client has waiting."""
        self.waiting += payloads
        self.waiting_bytes += size
        if self.waiting < MOST_WAITING and self.waiting_bytes < most_bytes:
            self.room.set()
        else:
            self.room.clear()

    def hang_up(self) -> None:
        """End its connection."""
        if self.task is not None:
            self.task.cancel()


@dataclass(frozen=True)
class Identity:
    """Who a connection is from: the name in its certificate; None: there is no TLS."""

    name: str | None
    peer: str


Admit = Callable[[Hello, Identity], Refused | None]  # why not, None: it may take part


def most_held(clients: int, max_payload: int) -> int:
    """Return the bytes that all clients and strangers together can make a server hold: what caps add up to.

    Of a client: what waits to be used, one more on its way, and what it has not taken; and a stranger's share
    for its connection.
    """
    client = (2 + MOST_UNREAD) * max_payload + STRANGER_BYTES
    return clients * client + MOST_STRANGERS * STRANGER_BYTES


def read_hello(data: bytes) -> Hello:
    """Return the first words of a connection. Raises ValueError on anything else."""
    if len(data) > MAX_HELLO_BYTES:
        raise ValueError(f"{len(data)} bytes before anything was said")
    hello = WIRE.decode(decode_frame(data).piece)
    if not isinstance(hello, Hello):
        raise ValueError(f"{type(hello).__name__} came before anything was said")
    return hello


class Listener:
    """Listens at an address. welcome: what a client with a new session is told of the job.

    certs: folder of the server's certificates; None: no TLS. client_certs: whether clients need one, too.
    admit decides on every connection before anything else is done with what it says. Raises NetworkError
    where the address cannot be had.
    """

    def __init__(
        self,
        address: str,
        certs: Path | None,
        admit: Admit,
        welcome: Welcome,
        max_payload: int,
        audit: Audit,
        client_certs: bool = True,
    ) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.port = 0
        self._admit = admit
        self._welcome = welcome
        self._max_payload = max_payload
        self._front = TlsFront(certs, audit, client_certs)
        self._by_certificate = certs is not None and client_certs
        self._peers: dict[str, _Peer] = {}
        self._expelled: dict[str, str] = {}
        self._end: End | None = None  # what everyone is told from now on
        self._told: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="splitft-listener", daemon=True)
        self._thread.start()
        self._server: Any = None
        asyncio.run_coroutine_threadsafe(self._start(address), self._loop).result()

    def send(self, name: str, payload: bytes, session: str | None = None) -> None:
        """Send a payload to a client, now or when it is back; not where it has another session by then."""
        self._loop.call_soon_threadsafe(self._send, name, payload, session)

    def wake(self) -> None:
        """Have who waits for events look at something else, too."""
        self.events.put(Event("woken", ""))

    def used(self, event: Event) -> None:
        """The payload of an event has been used: its client may have the next one waiting."""
        self._loop.call_soon_threadsafe(self._forget, event)

    def expel(self, name: str, reason: str) -> None:
        """Listen to a client no more; it is told why, and its connection ends."""
        self._loop.call_soon_threadsafe(self._expel, name, reason)

    def gone(self, name: str, reason: str) -> None:
        """Have the run go on without a client of which it is known that it will not come (back)."""
        self.events.put(Event("gone", name, reason=reason))

    def tell_end(
        self, end: End, names: Collection[str], seconds: float, on_told: Callable[[str], None]
    ) -> list[str]:
        """Tell everyone who is there or comes that the run is over, until all of `names` have heard.

        on_told is called for each of these. Returns those who did not come within `seconds`.
        """
        telling = self._tell_end(end, set(names), time.monotonic() + seconds, on_told)
        return asyncio.run_coroutine_threadsafe(telling, self._loop).result()

    def close(self, grace: float = 1.0) -> None:
        """Stop listening; what was sent last still has `grace` seconds to arrive."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._stop(grace), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _start(self, address: str) -> None:
        self._server = grpc.aio.server(options=OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._exchange)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
        )
        host, _, port = address.rpartition(":")
        try:
            inner = self._server.add_insecure_port("127.0.0.1:0")
            await self._server.start()
            self.port = await self._front.start(host.strip("[]"), int(port), inner)
        except (RuntimeError, OSError) as error:
            raise NetworkError(f"cannot listen at {address}: {error}; choose another with --listen") from None

    async def _stop(self, grace: float) -> None:
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and any(
            peer.link.connected and peer.link.session.waiting for peer in self._peers.values()
        ):
            await asyncio.sleep(0.02)
        await self._front.stop()
        await self._server.stop(0)

    async def _tell_end(
        self, end: End, left: set[str], deadline: float, on_told: Callable[[str], None]
    ) -> list[str]:
        self._end = end
        asked = {name: peer for name, peer in self._peers.items() if peer.link.connected}
        for peer in asked.values():
            peer.link.send(packed(end))
        while left and time.monotonic() < deadline:
            for name in left & (asked.keys() | self._told):
                if name in self._told or not asked[name].link.session.waiting:
                    left.discard(name)
                    on_told(name)
                    if name in asked:
                        asked[name].hang_up()
            await asyncio.sleep(0.02)
        return sorted(left)

    def _send(self, name: str, payload: bytes, session: str | None) -> None:
        peer = self._peers.get(name)
        if peer is None or session not in (None, peer.session):
            return
        peer.link.send(payload)
        unread = max(peer.link.queued_bytes, peer.link.session.waiting_bytes)
        if unread <= MOST_UNREAD * self._max_payload:
            return
        if peer.link.connected:
            self._tell(Event("expelled", name, peer.session, reason=f"{unread} bytes wait for it"), peer)
        else:
            del self._peers[name]  # when it is back, it gets what it needs anew
            peer.hang_up()

    def _expel(self, name: str, reason: str) -> None:
        self._expelled[name] = reason
        peer = self._peers.pop(name, None)
        if peer is not None:
            peer.link.send(packed(End(reason, False)))
            self._loop.call_later(GRACE_SECONDS, peer.hang_up)

    def _forget(self, event: Event) -> None:
        peer = self._peers.get(event.name)
        if peer is not None and peer.session == event.session:
            peer.note(-1, -len(event.payload), self._max_payload)

    async def _exchange(self, _: Any, context: Any) -> None:
        """One connection, from its hello to its end."""

        async def read() -> bytes:
            data = await context.read()
            if data is grpc.aio.EOF:
                raise EOFError
            return bytes(data)

        try:
            hello = read_hello(await asyncio.wait_for(read(), HELLO_SECONDS))
        except (asyncio.TimeoutError, EOFError, ValueError):
            return
        port = int(context.peer().rpartition(":")[2])
        refusal = self._admit(hello, self._identity(port)) or self._in_the_way(hello)
        if refusal is not None:
            await context.write(Frame(Kind.HELLO, 0, 0, 0, packed(refusal)).encode())
            return
        self._front.know(port)
        if self._end is not None:
            await context.write(Frame(Kind.HELLO, 0, 0, 0, packed(self._end)).encode())
            try:
                with suppress(EOFError, asyncio.TimeoutError, grpc.aio.BaseError):
                    await asyncio.wait_for(read(), HELLO_SECONDS)
            finally:  # a client that hangs up may have the call cancelled
                self._told.add(hello.name)
            return
        await self._end_former(hello.name)
        peer, answer = self._peer_of(hello)
        received = hello.received if hello.session == peer.session else 0

        async def carry() -> None:
            await context.write(Frame(Kind.HELLO, 0, 0, 0, packed(answer)).encode())
            await peer.link.carry(read, context.write, received)

        peer.task = carrying = asyncio.ensure_future(carry())
        try:
            await carrying
        except ViolationError as error:
            self._tell(Event("expelled", hello.name, peer.session, reason=str(error)), peer)
        except (Exception, asyncio.CancelledError) as error:  # whatever it was, this client is away now
            self._tell(
                Event("away", hello.name, peer.session, reason=str(error) or type(error).__name__), peer
            )
        finally:
            carrying.cancel()
            self._front.hang_up(port)  # gRPC would wait until the other end has read that it is over

    async def _end_former(self, name: str) -> None:
        """A client dials again before its former connection was seen to break: end that one first."""
        while (peer := self._peers.get(name)) and peer.task is not None and not peer.task.done():
            peer.hang_up()
            await asyncio.wait({peer.task})

    def _identity(self, port: int) -> Identity:
        """Who a connection is from, as its certificate says."""
        name, address = self._front.who(port)
        return Identity(name if self._by_certificate else None, address)

    def _in_the_way(self, hello: Hello) -> Refused | None:
        """Refuse who was expelled, and a second process of a name while the first is alive."""
        if hello.name in self._expelled:
            return Refused(f"it was expelled: {self._expelled[hello.name]}", again=False)
        peer = self._peers.get(hello.name)
        if peer is None or not peer.link.connected or peer.process == hello.process:
            return None
        return Refused(f"a client called {hello.name} is connected already", again=True)

    def _peer_of(self, hello: Hello) -> tuple[_Peer, Welcome]:
        """Return the session to go on with, new or not, and the answer to the hello."""
        peer = self._peers.get(hello.name)
        if peer is not None and peer.session == hello.session and peer.process == hello.process:
            self._tell(Event("back", hello.name, peer.session), peer)
            return peer, Welcome(peer.session, peer.link.session.received, "", (), (), "")
        session = secrets.token_hex(16)

        def deliver(payload: bytes) -> None:
            made.note(1, len(payload), self._max_payload)
            self.events.put(Event("said", hello.name, session, payload))

        async def room() -> None:
            await made.room.wait()

        link = Link(Delivery(self._max_payload), deliver, "server", room)
        made = _Peer(hello.process, session, link)
        made.room.set()
        self._peers[hello.name] = made
        self._tell(Event("joined", hello.name, session), made)
        known = self._welcome
        return made, Welcome(session, 0, known.job, known.targets, known.excluded, known.server_inputs)

    def _tell(self, event: Event, peer: _Peer) -> None:
        if self._peers.get(event.name) is peer:
            self.events.put(event)
