"""Connections in memory, and the ends of the protocol that use them in the place of gRPC."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from splitft.engines.network.control import End, Welcome, packed
from splitft.engines.network.transport.delivery import Frame, Kind
from splitft.engines.network.transport.dialler import MAX_PAYLOAD, Dialler, Item
from splitft.engines.network.transport.link import Read, Write
from splitft.engines.network.transport.listener import HELLO_SECONDS, Listener, read_hello
from splitft.engines.network.transport.peers import Event, Peers

if TYPE_CHECKING:
    from simulation.party import Party
    from simulation.world import World

_HEAD = struct.Struct("<BQQ")  # kind, number, acknowledgement of a frame
KINDS = {kind.value: kind.name for kind in Kind}


class Pipe:
    """One direction of a connection: frames arrive in order, late, and until it is cut."""

    def __init__(self, world: World, name: str, delay: Callable[[], float]) -> None:
        self.world, self.name, self._delay = world, name, delay
        self.fault = ""  # of the next frame: drop, duplicate or corrupt
        self.stalled_until = 0.0  # nothing arrives, and little is taken, before
        self.cut = False  # nothing arrives any more
        self.refuses = False  # writing fails
        self.ended = False  # reading ends
        self._items: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self.arrival = 0.0  # of the last frame
        self._acknowledged = 0

    async def write(self, data: bytes) -> None:
        loop = self.world.loop
        self.world.tick()
        if self.refuses:
            raise ConnectionError("the connection was reset")
        kind, number, received = _HEAD.unpack_from(data)
        assert received >= self._acknowledged, f"{self.name}: an acknowledgement went back"
        self._acknowledged = received
        self.world.note(self.name, f"{KINDS[kind]} {number} ack {received} of {len(data)} bytes")
        if self.stalled_until > loop.now:
            await asyncio.sleep(self.stalled_until - loop.now)
        fault, self.fault = self.fault, ""
        if fault == "drop":
            return
        if fault == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 1])
        for _ in range(2 if fault == "duplicate" else 1):
            self.arrival = max(self.arrival + 1e-7, loop.now + self._delay(), self.stalled_until)
            loop.call_at(self.arrival, self._arrive, data)

    async def read(self) -> bytes:
        while not self._items:
            if self.ended:
                raise EOFError("it ended")
            self._reader = self.world.loop.create_future()
            await self._reader
        return self._items.popleft()

    def end(self) -> None:
        """The reader hears that it is over."""
        self.ended = True
        self._wake()

    def _arrive(self, data: bytes) -> None:
        if not self.cut:
            self._items.append(data)
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Connection:
    """A connection of a client to a listener."""

    def __init__(self, world: World, client: Party, server: Party, delay: Callable[[], float]) -> None:
        self.world, self.client, self.server = world, client, server
        self.up = Pipe(world, f"{client.name}>{server.name}", delay)
        self.down = Pipe(world, f"{server.name}>{client.name}", delay)
        self.open = True

    def break_(self, told_client: float | None, told_server: float | None) -> None:
        """Cut it. Each end is told after so many seconds, or never: then it only sees that nothing comes."""
        self.open = False
        self.up.cut = self.down.cut = True
        for told, reads, writes in ((told_client, self.down, self.up), (told_server, self.up, self.down)):
            if told is not None:
                self.world.loop.call_later(told, self._tell, reads, writes)

    def hang_up(self, by: str) -> None:
        """One end closes it: the other one hears that after what is on its way."""
        own, other = (self.up, self.down) if by == "client" else (self.down, self.up)
        own.refuses = True
        if self.open:
            self.open = False
            other.refuses = other.cut = True
            self.world.loop.call_at(max(own.arrival, self.world.loop.now) + 1e-6, own.end)

    @staticmethod
    def _tell(reads: Pipe, writes: Pipe) -> None:
        reads.end()
        writes.refuses = True


class Network:
    """All connections, and who listens."""

    def __init__(self, world: World, delay: Callable[[], float]) -> None:
        self.world, self.delay = world, delay
        self.listening: dict[str, SimulatedListener] = {}
        self.connections: list[Connection] = []

    def connect(self, client: Party, address: str) -> Connection:
        """Connect. Raises ConnectionError where nobody listens."""
        listener = self.listening.get(address)
        if listener is None:
            raise ConnectionError("refused")
        self.connections = [one for one in self.connections if one.open]
        connection = Connection(self.world, client, listener.party, self.delay)
        self.connections.append(connection)
        listener.accept(connection)
        return connection

    def of(self, name: str) -> list[Connection]:
        """Return the open connections of a party."""
        return [c for c in self.connections if c.open and name in (c.client.name, c.server.name)]


class SimulatedListener(Listener):
    """A listener on this network: sessions, peers and the telling of the end are the real ones."""

    def __init__(self, party: Party, welcome: Welcome, max_payload: int = 1 << 20) -> None:
        self.party, self.port = party, 0
        self._peers = Peers(welcome, max_payload)
        self._peers.events = party.inbox()
        self.events = self._peers.events
        self._end: End | None = None
        self._told: set[str] = set()
        self._loop = party.world.loop  # type: ignore[assignment]
        party.network.listening[party.name] = self

    def accept(self, connection: Connection) -> None:
        self.party.spawn(self._accept(connection))

    def send(self, name: str, payload: bytes, session: str | None = None) -> None:
        self.party.computing.check()
        super().send(name, payload, session)

    def tell_end(
        self, end: End, names: Collection[str], seconds: float, on_told: Callable[[str], None]
    ) -> list[str]:
        told: list[str] = []  # files are written in the computing thread
        telling = self._tell_end(end, set(names), self._loop.time() + seconds, told.append)
        left: list[str] = self.party.computing.wait_for(telling)
        for name in told:
            on_told(name)
        return left

    def close(self, grace: float = 1.0) -> None:
        self.party.computing.wait_for(self._close(grace))

    async def _close(self, grace: float) -> None:
        deadline = self._loop.time() + grace
        while self._loop.time() < deadline and any(
            peer.link.session.waiting for peer in self._peers.connected().values()
        ):
            await asyncio.sleep(0.02)
        self.party.network.listening.pop(self.party.name, None)
        for connection in self.party.network.of(self.party.name):
            if connection.server is self.party:
                connection.hang_up("server")

    async def _accept(self, connection: Connection) -> None:
        read, write = connection.up.read, connection.down.write
        try:
            try:
                hello = read_hello(await asyncio.wait_for(read(), HELLO_SECONDS))
            except (asyncio.TimeoutError, EOFError, ValueError):
                return
            refusal = self._peers.refusal(hello)
            if refusal is not None:
                await write(Frame(Kind.HELLO, 0, 0, 0, packed(refusal)).encode())
                return
            await self._admitted(hello, read, write)
        except ConnectionError:
            pass
        finally:
            connection.hang_up("server")


class SimulatedDialler(Dialler):
    """A dialler on this network: only its connections, its thread and its queue are others."""

    def __init__(
        self, party: Party, address: str, sink: Callable[[Item], None] | None = None, **_: Any
    ) -> None:
        self.party = party
        super().__init__(address, None, party.name, "", MAX_PAYLOAD, self._on_state, sink=sink)

    def _start(self) -> None:
        self._loop = self.party.world.loop  # type: ignore[assignment]
        self.incoming = self.party.inbox()  # type: ignore[assignment]
        self._put = self.sink or self.incoming.put
        self._dialling = self.party.spawn(self._dial())  # type: ignore[assignment]

    def _jitter(self) -> float:
        return self.party.world.random.uniform(0.5, 1.0)

    def _on_state(self, text: str) -> None:
        self.party.world.note(self.party.name, text)

    def close(self, grace: float = 2.0, *, over: bool = False) -> None:
        self.party.computing.wait_for(self._hang_up(grace, over))

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[Read, Write]]:
        await asyncio.sleep(self.party.network.delay())
        connection = self.party.network.connect(self.party, self.address)
        try:
            yield connection.down.read, connection.up.write
        finally:
            connection.hang_up("client")


__all__ = ["Event", "Network", "SimulatedDialler", "SimulatedListener"]
