"""Peers: the sessions of clients at a listener; for its event loop."""

from __future__ import annotations

import asyncio
import queue
import secrets
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from splitft.engines.network.control import End, Hello, Refused, Welcome, packed
from splitft.engines.network.transport.delivery import Delivery
from splitft.engines.network.transport.link import Link

GRACE_SECONDS = 1.0  # for the last message to a client that is expelled
MOST_WAITING = 64  # unused payloads of one client, from which on its connection is not read
MOST_UNREAD = 4  # payloads of the largest size that a client has not taken; no correct one comes near


@dataclass(frozen=True)
class Event:
    """A change at a client."""

    kind: str  # joined (a new session), back, away, said (a payload), expelled, gone; woken: no change
    name: str
    session: str = ""
    payload: bytes = b""
    reason: str = ""
    at: float = field(default_factory=time.perf_counter)  # the moment


class Peer:
    """One client's session. room: is set while its connection may be read."""

    def __init__(self, hello: Hello, max_payload: int, events: queue.SimpleQueue[Event]) -> None:
        self.name, self.process = hello.name, hello.process
        self.session = secrets.token_hex(16)
        self._room = asyncio.Event()
        self._room.set()
        self.link = Link(Delivery(max_payload), self._deliver, "server", self._room.wait)
        self._most_bytes = max_payload
        self._events = events
        self._waiting = self._waiting_bytes = 0  # payloads that are not used yet
        self._task: asyncio.Task[None] | None = None  # that carries its connection

    def connect(self, connection: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have a connection carried; return the task that does."""
        self._task = asyncio.ensure_future(connection)
        return self._task

    def hang_up(self) -> asyncio.Task[None] | None:
        """Have the connection end; return the task that still carries it, None where none does."""
        if self._task is None or self._task.done():
            return None
        self._task.cancel()
        return self._task

    def note(self, payloads: int, size: int) -> None:
        """Note that payloads came, or, with negative numbers, that they were used and there is room again."""
        self._waiting += payloads
        self._waiting_bytes += size
        if self._waiting < MOST_WAITING and self._waiting_bytes < self._most_bytes:
            self._room.set()
        else:
            self._room.clear()

    def _deliver(self, payload: bytes) -> None:
        self.note(1, len(payload))
        self._events.put(Event("said", self.name, self.session, payload))


class Peers:
    """The session of each client. welcome: for a new session, without that."""

    def __init__(self, welcome: Welcome, max_payload: int) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._welcome = welcome
        self._max_payload = max_payload
        self._peers: dict[str, Peer] = {}
        self._expelled: dict[str, str] = {}
        self._suspended: dict[str, str] = {}  # may come again later

    def connected(self) -> dict[str, Peer]:
        """Return the clients with a connection."""
        return {name: peer for name, peer in self._peers.items() if peer.link.connected}

    def refusal(self, hello: Hello) -> Refused | None:
        """Refuse expelled clients, and a second process of a name while the first is alive."""
        if hello.name in self._expelled:
            return Refused(f"it was expelled: {self._expelled[hello.name]}", again=False)
        if hello.name in self._suspended:
            return Refused(self._suspended[hello.name], again=True)
        peer = self.connected().get(hello.name)
        if peer is not None and peer.process != hello.process:
            return Refused(f"a client called {hello.name} is connected already", again=True)
        return None

    async def end_former(self, name: str) -> None:
        """End a client's former connection, if it dials again before that was seen to break."""
        while (peer := self._peers.get(name)) and (former := peer.hang_up()):
            await asyncio.wait({former})

    def meet(self, hello: Hello) -> tuple[Peer, Welcome]:
        """Return the client with its session, the former or a new one, and the answer to its hello."""
        peer = self._peers.get(hello.name)
        if peer is not None and peer.session == hello.session and peer.process == hello.process:
            self.tell("back", peer)
            return peer, Welcome(peer.session, peer.link.session.received)
        peer = self._peers[hello.name] = Peer(hello, self._max_payload, self.events)
        self.tell("joined", peer)
        return peer, replace(self._welcome, session=peer.session)

    def send(self, name: str, payload: bytes, session: str | None) -> None:
        """Send a payload to a client, if its session is this one; None: any."""
        peer = self._peers.get(name)
        if peer is None or session not in (None, peer.session):
            return
        peer.link.send(payload)
        unread = max(peer.link.queued_bytes, peer.link.session.waiting_bytes)
        if unread <= MOST_UNREAD * self._max_payload:
            return
        if peer.link.connected:
            self.tell("expelled", peer, f"{unread} bytes wait for it")
        else:
            del self._peers[name]  # when it is back, it starts a new session
            peer.hang_up()

    def used(self, event: Event) -> None:
        """Note that the payload of an event was used."""
        peer = self._peers.get(event.name)
        if peer is not None and peer.session == event.session:
            peer.note(-1, -len(event.payload))

    def expel(self, name: str, reason: str) -> None:
        """Tell a client why it is expelled, and end its connection."""
        self._expelled[name] = reason
        self.turn_away(name, reason)

    def suspend(self, name: str, reason: str) -> None:
        """End a client's session, and refuse it until `lift`; it keeps dialling."""
        self._suspended[name] = reason
        if peer := self._peers.pop(name, None):
            peer.hang_up()

    def lift(self, name: str, expelled: bool = False) -> None:
        """Let a client come again that is suspended; expelled: or expelled."""
        self._suspended.pop(name, None)
        if expelled:
            self._expelled.pop(name, None)

    def turn_away(self, name: str, reason: str) -> None:
        """Tell a client why its session ends, and end its connection; it may come again."""
        peer = self._peers.pop(name, None)
        if peer is not None:
            peer.link.send(packed(End(reason, False)))
            asyncio.get_running_loop().call_later(GRACE_SECONDS, peer.hang_up)

    def tell(self, kind: str, peer: Peer, reason: str = "") -> None:
        """Report a change at a client, unless its session is over."""
        if self._peers.get(peer.name) is peer:
            self.events.put(Event(kind, peer.name, peer.session, reason=reason))
