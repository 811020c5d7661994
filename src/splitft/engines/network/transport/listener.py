"""The server's end of the network: listens for connections, and admits clients to their sessions.

It runs in a thread of its own, and puts what comes into a queue for the computing thread. Once the run is
over, clients are told so as they connect.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from splitft.common.waits import result_of
from splitft.engines.network.control import AWAY, WIRE, End, Hello, Refused, Welcome, packed
from splitft.engines.network.transport.admission import Admission
from splitft.engines.network.transport.delivery import Frame, Kind, ViolationError, decode_frame
from splitft.engines.network.transport.entrance import Arrival, Entrance
from splitft.engines.network.transport.link import CLOSED, Read, Write, in_words, reader_of
from splitft.engines.network.transport.peers import GRACE_SECONDS, Event, Peers
from splitft.engines.network.transport.room import quiet_lack_of_files

HELLO_SECONDS = 5.0  # a connection without a hello by then is closed
MAX_HELLO_BYTES = 1 << 14  # of a stranger's first message
LEAVE_SECONDS, FLUSH_SECONDS = 1.0, 0.2  # for connections to end where this party stops for a while
WATCH_SECONDS = 1.0  # between two looks at the certificates of open connections


def read_hello(data: bytes) -> Hello:
    """Return the first message of a connection. Raises ValueError on anything else."""
    if len(data) > MAX_HELLO_BYTES:
        raise ValueError(f"{len(data)} bytes before anything was said")
    hello = WIRE.decode(decode_frame(data).piece)
    if not isinstance(hello, Hello):
        raise ValueError(f"{type(hello).__name__} came before anything was said")
    return hello


def _refusal(entrance: Entrance, door: Admission, hello: Hello, arrival: Arrival) -> Refused | None:
    """Return the refusal of a client by its certificate, its name and its token."""
    certified = entrance.name_of(arrival.certificate, hello.name)
    reason = entrance.refusal(arrival.certificate)
    if reason is not None:
        return door.refuse(reason, certified, arrival.peer[0])
    return door.admit(hello, certified, arrival.peer[0])


def _no_longer(entrance: Entrance, door: Admission, hello: Hello, arrival: Arrival) -> str | None:
    """Return why a client that came in may no longer be there; None: it may."""
    reason = entrance.refusal(arrival.certificate)
    if not door.keeps_token(hello):
        reason = "its token was taken away"
    if door.by_certificate and entrance.name_of(arrival.certificate, hello.name) != hello.name:
        reason = reason or "its certificate is no longer that of this name"
    return reason


class Listener:
    """Listens at an address.

    certs: folder of the server's certificates; None: no TLS. door: decides on every connection by its hello,
    before anything else. welcome: the job, for clients with a new session. max_payload: bytes of a client's
    largest message. Raises NetworkError where the address cannot be had.
    """

    def __init__(
        self, address: str, certs: Path | None, door: Admission, welcome: Welcome, max_payload: int
    ) -> None:
        self.port = 0
        self._door = door
        self._peers = Peers(welcome, max_payload)
        self.events = self._peers.events  # changes at clients, for the computing thread
        self._entrance = Entrance(certs, door.by_certificate, len(door.names), door.audit)
        if self._entrance.notice:
            door.audit.notice(self._entrance.notice)
        self._arrivals: dict[str, Arrival] = {}  # by name, of clients that were let in
        self._hellos: dict[str, Hello] = {}  # of these
        self._watching: asyncio.Task[None] | None = None
        self._end: End | None = None  # once the run is over
        self._told: set[str] = set()  # clients that connected since then, and heard
        self._leaving = False  # this process stops, and is started again
        self._loop = asyncio.new_event_loop()
        quiet_lack_of_files(self._loop, door.audit.notice)
        self._thread = threading.Thread(target=self._loop.run_forever, name="splitft-listener", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(address), self._loop).result()

    def send(self, name: str, payload: bytes, session: str | None = None) -> None:
        """Send a payload to a client, now or when it is back; not where it has another session by then."""
        self._loop.call_soon_threadsafe(self._peers.send, name, payload, session)

    def used(self, event: Event) -> None:
        """Note that the payload of an event was used: there is room for its client's next."""
        self._loop.call_soon_threadsafe(self._peers.used, event)

    def expel(self, name: str, reason: str) -> None:
        """Tell a client why it is expelled, end its connection, and refuse it from now on."""
        self._loop.call_soon_threadsafe(self._peers.expel, name, reason)

    def turn_away(self, name: str, reason: str) -> None:
        """Tell a client why it cannot take part yet, and end its session; it may come again."""
        self._loop.call_soon_threadsafe(self._peers.turn_away, name, reason)

    def suspend(self, name: str, reason: str) -> None:
        """End a client's session, and refuse it until `lift`; it keeps dialling."""
        self._loop.call_soon_threadsafe(self._peers.suspend, name, reason)

    def lift(self, name: str, *, expelled: bool = False) -> None:
        """Let a client come again that is suspended; expelled: or expelled."""
        self._loop.call_soon_threadsafe(self._peers.lift, name, expelled)

    def gone(self, name: str, reason: str) -> None:
        """Report that a client will not come, or not come back."""
        self.events.put(Event("gone", name, reason=reason))

    def tell_end(
        self, end: End, names: Collection[str], seconds: float, on_told: Callable[[str], None]
    ) -> list[str]:
        """Tell clients that are there or connect that the run is over, until all of `names` have heard.

        on_told: called for each of these. Returns those that did not hear it within `seconds`.
        """
        telling = self._tell_end(end, set(names), self._loop.time() + seconds, on_told)
        return result_of(asyncio.run_coroutine_threadsafe(telling, self._loop))

    def close(self, grace: float = 1.0) -> None:
        """Stop listening; what was sent last still has `grace` seconds to arrive."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._stop(grace), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def leave(self) -> None:
        """Have clients dial again until this party is back; stop listening."""
        if self._thread.is_alive():
            result_of(asyncio.run_coroutine_threadsafe(self._leave(), self._loop))
            self.close(0)

    async def _leave(self) -> None:
        self._leaving = True
        ending = [task for peer in self._peers.connected().values() if (task := peer.hang_up())]
        if ending:
            await asyncio.wait(ending, timeout=LEAVE_SECONDS)
        await asyncio.sleep(FLUSH_SECONDS)  # for gRPC to send the last status of each call

    async def _start(self, address: str) -> None:
        self.port = await self._entrance.start(address, self._exchange)
        self._watching = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        """Hang up on clients whose certificate no longer counts, and keep the log of refusals up to date."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._entrance.remind(self._arrivals, self._door.audit.notice)
            for name, peer in self._peers.connected().items():
                arrival = self._arrivals.get(name)
                if arrival is None:
                    continue
                reason = _no_longer(self._entrance, self._door, self._hellos[name], arrival)
                if reason is not None:
                    del self._arrivals[name]
                    self._door.refuse(reason, name, arrival.peer[0])
                    peer.link.send(packed(End(f"this client is turned away, {reason}", False)))
                    asyncio.get_running_loop().call_later(GRACE_SECONDS, peer.hang_up)
            self._door.audit.flush(due=True)

    async def _stop(self, grace: float) -> None:
        deadline = self._loop.time() + grace
        while self._loop.time() < deadline and any(
            peer.link.session.waiting for peer in self._peers.connected().values()
        ):
            await asyncio.sleep(0.02)
        if self._watching is not None:
            self._watching.cancel()
        await self._entrance.stop()
        self._door.audit.flush()

    async def _tell_end(
        self, end: End, left: set[str], deadline: float, on_told: Callable[[str], None]
    ) -> list[str]:
        self._end = end
        for name in left:
            self._peers.lift(name)
        asked = self._peers.connected()
        for peer in asked.values():
            peer.link.send(packed(end))
        while left and self._loop.time() < deadline:
            for name in sorted(left & (asked.keys() | self._told)):
                if name in self._told or not asked[name].link.session.waiting:
                    left.discard(name)
                    on_told(name)
                    if name in asked:
                        asked[name].hang_up()
            await asyncio.sleep(0.02)
        return sorted(left)

    async def _exchange(self, _: Any, context: Any) -> None:
        """One connection, from its hello to its end."""
        read = reader_of(context)
        # A stranger says who it is.
        try:
            arrival = self._entrance.arrival(context)
            hello = read_hello(await asyncio.wait_for(read(), HELLO_SECONDS))
        except (asyncio.TimeoutError, EOFError, OSError, ValueError):
            return
        # Its certificate, then its name and its token decide.
        refusal = _refusal(self._entrance, self._door, hello, arrival) or self._peers.refusal(hello)
        if refusal is not None:
            await context.write(Frame(Kind.HELLO, 0, 0, 0, packed(refusal)).encode())
            return
        if self._leaving:
            await context.abort(grpc.StatusCode.UNAVAILABLE, AWAY)
        arrival.recognise()
        self._arrivals[hello.name], self._hellos[hello.name] = arrival, hello
        try:
            await self._admitted(hello, read, context.write)
        finally:
            if self._arrivals.get(hello.name) is arrival:
                del self._arrivals[hello.name]
            if not self._leaving:
                arrival.hang_up()
        if self._leaving:
            await context.abort(grpc.StatusCode.UNAVAILABLE, AWAY)

    async def _admitted(self, hello: Hello, read: Read, write: Write) -> None:
        """One connection of a client that may come in, to its end."""
        # After the end of the run it hears that, and says so; else it dials again.
        if self._end is not None:
            await write(Frame(Kind.HELLO, 0, 0, 0, packed(self._end)).encode())
            with suppress(EOFError, asyncio.TimeoutError, grpc.aio.BaseError):
                await asyncio.wait_for(read(), HELLO_SECONDS)
                self._told.add(hello.name)
            return

        # Its session goes on over this connection.
        await self._peers.end_former(hello.name)
        peer, answer = self._peers.meet(hello)
        received = hello.received if hello.session == peer.session else 0

        async def carry() -> None:
            await write(Frame(Kind.HELLO, 0, 0, 0, packed(answer)).encode())
            await peer.link.carry(read, write, received)

        carrying = peer.connect(carry())
        try:
            await carrying
        except ViolationError as error:
            self._peers.tell("expelled", peer, str(error))
        except asyncio.CancelledError:  # gRPC cancels the call of a client that is gone
            self._peers.tell("away", peer, CLOSED)
        except Exception as error:  # whatever it was, this client is away now
            self._peers.tell("away", peer, in_words(error))
        finally:
            carrying.cancel()
