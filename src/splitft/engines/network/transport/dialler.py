"""A client's end of the network: dials out, and dials again whenever the connection is lost.

It runs in a thread of its own, and puts what comes into a queue for the computing thread.
"""

from __future__ import annotations

import asyncio
import queue
import random
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc

from splitft.common.notices import Notice
from splitft.engines.network.control import (
    AWAY,
    PROTOCOL,
    SCHEMA,
    VERSION,
    WIRE,
    End,
    Hello,
    Refused,
    Welcome,
    in_plain_words,
    packed,
)
from splitft.engines.network.transport.credentials import ClientFiles
from splitft.engines.network.transport.delivery import (
    BrokenError,
    Delivery,
    Frame,
    Kind,
    ViolationError,
    decode_frame,
)
from splitft.engines.network.transport.entrance import METHOD, OPTIONS, SERVICE
from splitft.engines.network.transport.link import SILENCE_SECONDS, Link, Read, Write, in_words, reader_of
from splitft.engines.network.transport.no_answer import explain
from splitft.engines.network.transport.renewal import follow, until_renewed
from splitft.errors import LostError, NetworkError, SplitFTError

FIRST_WAIT, LONGEST_WAIT = 0.1, 3.0  # seconds between two tries: at first, and where nothing answers
MOST_LINES, LINE_SECONDS = 20, 60.0  # states of a connection that are told at once; later one a minute
CONFIRM_SECONDS = 2.0  # for a server to hang up on a client that has heard that the run is over
MAX_PAYLOAD = 1 << 31  # bytes of a message between server and aggregator; a client sets its own limit

Item = bytes | Welcome | Refused | End | SplitFTError


async def _confirm(read: Read, write: Write) -> None:
    """Say that the end of the run was heard, and wait until the server hangs up."""
    with suppress(Exception):  # a server that has not heard this waits as long as it says
        await write(Frame(Kind.BEAT, 0, 0, 0).encode())
        await asyncio.wait_for(read(), CONFIRM_SECONDS)


@dataclass(eq=False, repr=False)  # no token in a log
class Dialler:
    """Keeps a session with the server at an address.

    incoming: payloads; Welcome, where a new session starts; and last Refused, where the server refuses this
    client, End, where the run is over, NetworkError, where the server breaks the protocol, or LostError,
    where none has answered for `patience` seconds, or one whose certificate this client cannot accept.
    """

    address: str
    credentials: Any  # of gRPC; None: no TLS; ClientFiles: as the files are when it dials, also in mid-run
    name: str
    token: str
    max_payload: int
    on_state: Callable[[str], None] = lambda text: None  # receives changes of the connection in words
    patience: float = 0.0  # seconds; 0: no limit
    sink: Callable[[Item], None] | None = None  # receives all items instead of `incoming`, in another thread
    expected: str = ""  # the name in the server's certificate; empty: that of the address

    def __post_init__(self) -> None:
        self.incoming: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._put = self.sink or self.incoming.put
        self._process = secrets.token_hex(16)
        self._session = ""
        self._link: Link | None = None
        self._repeated = b""  # sent again in every new session
        self._said, self._lines, self._told_at = "", 0, 0.0
        self._answered = False  # ever
        self._renewed: asyncio.Event | None = None  # is set as the files of a certificate are others
        self._start()

    def _start(self) -> None:
        """Dial, in a thread of its own."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="splitft-dialler", daemon=True)
        self._thread.start()
        self._dialling = asyncio.run_coroutine_threadsafe(self._dial(), self._loop)

    def now(self) -> float:
        """Return the seconds of a clock that never goes back."""
        return self._loop.time()

    def send(self, session: str, payload: bytes) -> None:
        """Send a payload in a session; dropped where that session is over."""
        self._loop.call_soon_threadsafe(self._send, session, payload)

    def repeat(self, payload: bytes) -> None:
        """Send a payload now, and again at the start of every new session; empty: none any more."""
        self._loop.call_soon_threadsafe(self._repeat, payload)

    def limit(self, most: int) -> None:
        """Set the bytes of the largest payload that may come from now on."""
        self._loop.call_soon_threadsafe(self._limit, most)

    def close(self, grace: float = 2.0, *, over: bool = False) -> None:
        """Hang up, once what was sent has arrived or `grace` seconds are over.

        over: the other end has sent its last message, and hangs up once it knows that this has come.
        """
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._hang_up(grace, over), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _hang_up(self, grace: float, over: bool) -> None:
        self.on_state = lambda text: None
        if over and self._link is not None:
            self._link.beat()
        for _ in range(int(grace / 0.02)):
            if self._link is None or not (self._link.connected if over else self._link.session.waiting):
                break
            await asyncio.sleep(0.02)
        self._dialling.cancel()
        await asyncio.sleep(0)

    def _limit(self, most: int) -> None:
        self.max_payload = most
        if self._link is not None:
            self._link.session.max_payload = most

    def _send(self, session: str, payload: bytes) -> None:
        if self._link is not None and session == self._session:
            self._link.send(payload)

    def _repeat(self, payload: bytes) -> None:
        self._repeated = payload
        if payload and self._link is not None:
            self._link.send(payload)

    async def _dial(self) -> None:
        if not isinstance(self.credentials, ClientFiles):
            return await self._dial_on()

        def say(text: str) -> None:
            self.on_state(text)  # which another takes the place of as it hangs up

        self._renewed = asyncio.Event()
        following = asyncio.ensure_future(follow(self.credentials, self._renewed, say))
        try:
            await self._dial_on()
        finally:
            following.cancel()

    async def _dial_on(self) -> None:
        wait, self._heard = FIRST_WAIT, self.now()
        while True:
            try:
                if not await self._connect():
                    return
                wait = FIRST_WAIT
            except grpc.aio.AioRpcError as error:
                if error.details() == AWAY:
                    self._tell(f"no answer from {self.address}: {AWAY}; dialling again")
                    await asyncio.sleep(FIRST_WAIT)
                    continue
                told, host = error.details() or error.code().name, self.address.rpartition(":")[0]
                why, final = explain(told, self.expected or host)
                if isinstance(self.credentials, ClientFiles):
                    why = self.credentials.problem() or why
                if final and not self._answered:  # later it may be a change that is under way
                    self._put(LostError(f"no connection with {self.address}: {why}"))
                    return
                self._tell(f"no answer from {self.address}{f' ({why})' if why else ''}; dialling again")
            except ViolationError as error:
                self._put(NetworkError(f"{self.address} breaks the protocol: {error}"))
                return
            except Exception as error:  # of any kind: the run must not wait for a client that gave up
                silent = isinstance(error, asyncio.TimeoutError)
                why = "no answer came" if silent else in_words(error)
                self._tell(f"the connection to {self.address} broke ({why}); dialling again")
                wait = FIRST_WAIT
            if self.patience and self.now() - self._heard > self.patience:
                lost = f"no server has answered at {self.address} for {self.patience:.0f} seconds"
                self._put(LostError(lost))
                return
            await asyncio.sleep(wait * self._jitter())
            wait = min(2 * wait, LONGEST_WAIT)

    def _jitter(self) -> float:
        """Return a share of a wait, so that clients that were lost at once do not dial at once."""
        return random.uniform(0.5, 1.0)  # nosec B311 # no secret

    def _tell(self, text: str) -> None:
        """Report a state of the connection, once; the other end's changing words fill no log."""
        due = self._lines < MOST_LINES or self.now() - self._told_at >= LINE_SECONDS
        if text and text != self._said and due:
            self._lines, self._told_at = self._lines + 1, self.now()
            self.on_state(Notice(text, "connection", "warning", address=self.address))
        self._said = text

    async def _connect(self) -> bool:
        """Open a connection and carry the session over it; return whether to dial again at its end."""
        # Dial, and say hello.
        async with self._connection() as (read, write):
            received = self._link.session.received if self._link else 0
            hello = Hello(
                PROTOCOL, self.name, self.token, self._process, self._session, received, SCHEMA, VERSION
            )
            await write(Frame(Kind.HELLO, 0, 0, 0, packed(hello)).encode())
            first = decode_frame(await asyncio.wait_for(read(), SILENCE_SECONDS)).piece
            answer = in_plain_words(WIRE.decode(first))
            self._heard, self._answered = self.now(), True
            # The answer: refused, over, or a session, the former or a new one.
            if isinstance(answer, End) or (isinstance(answer, Refused) and not answer.again):
                if isinstance(answer, End):
                    await _confirm(read, write)
                self._put(answer)
                return False
            if isinstance(answer, Refused):
                raise BrokenError(answer.reason)
            if not isinstance(answer, Welcome):
                raise BrokenError("the server did not welcome this client")
            if self._link is None or answer.session != self._session:
                self._session = answer.session
                self._link = Link(Delivery(self.max_payload), self._put, "client")
                self._put(answer)
                self._repeat(self._repeated)
            self._tell("")
            try:
                await until_renewed(self._renewed, self._link.carry(read, write, answer.received))
            finally:
                self._heard = self.now()
        return True

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[Read, Write]]:
        """Open a connection, in which frames are read and written."""
        options = OPTIONS + ((("grpc.ssl_target_name_override", self.expected),) if self.expected else ())
        credentials = self.credentials
        if self._renewed is not None:
            self._renewed.clear()
            credentials = self.credentials.credentials
        if credentials is None:
            channel = grpc.aio.insecure_channel(self.address, options=options)
        else:
            channel = grpc.aio.secure_channel(self.address, credentials, options=options)
        async with channel:
            call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
            yield reader_of(call), call.write
