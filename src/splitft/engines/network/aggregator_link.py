"""The way to an aggregator in a process of its own, for the server and for clients.

Clients hand in their adapters there, and tell the server the SHA-256 only. The server sends the adapters of
its trunks, and gets averages back.
"""

from __future__ import annotations

import hashlib
import queue
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from splitft.engines.network.control import (
    WIRE,
    Average,
    Averaged,
    End,
    Refused,
    Rejected,
    Taken,
    Welcome,
    packed,
)
from splitft.engines.network.transport.certs import AGGREGATOR_NAME, channel_credentials
from splitft.engines.network.transport.dialler import Dialler
from splitft.errors import NetworkError
from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import Adapter, Layout, flatten, unflatten
from splitft.lora.ranks import HeldBlocks
from splitft.server.average import Contributions, check_sizes
from splitft.wire.ledger import Ledger
from splitft.wire.messages import AdapterUp

SERVER = "server"  # the server's name at the aggregator
MAX_PAYLOAD = 1 << 31  # of what an aggregator may send: averages


Incoming = queue.SimpleQueue[Any]  # of a dialler


def digest_of(update: AdapterUp) -> Tensor:
    """Return the SHA-256 of an update's adapters, (32,) uint8."""
    digest = hashlib.sha256(repr(update.blocks).encode())
    for values in update.values:
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


class Desk:
    """A client's way to the aggregator: hands in its last update, and again in every new session.

    dial: dials, given the sink. on_end: receives the reason where the aggregator refuses this client.
    """

    def __init__(self, dial: Callable[[Any], Dialler], on_end: Callable[[str], None]) -> None:
        self._session = ""
        self._last = b""
        self._on_end = on_end
        self._dialler = dial(self)

    def hand_in(self, update: AdapterUp) -> AdapterUp:
        """Send an update to the aggregator; return the message for the server instead."""
        self._last = packed(replace(update, grad_norms=None))
        self._dialler.send(self._session, self._last)
        return AdapterUp(update.round, (), (digest_of(update),), update.grad_norms)

    def put(self, item: object) -> None:
        """Take in an item of the dialler, in its thread."""
        if isinstance(item, Welcome):
            self._session = item.session
            if self._last:
                self._dialler.send(self._session, self._last)
        elif not isinstance(item, bytes):
            self._on_end(f"the aggregator refuses this client: {getattr(item, 'reason', '')}")

    def close(self) -> None:
        """Hang up."""
        self._dialler.close(0)


class Clients(Protocol):
    """The server's clients, who are served while it waits for the aggregator."""

    def wake(self) -> None: ...
    def pump(self) -> None: ...
    def expel(self, name: str, reason: str) -> None: ...


class AggregatorLink:
    """The server's way to the aggregator, from `open` on. job_digest: see `Average`."""

    def __init__(
        self,
        settings: TrainingSettings,
        job_digest: str,
        layout: Layout,
        device: torch.device,
        ledger: Ledger,
    ) -> None:
        self._settings = settings
        self._job_digest = job_digest
        self._layout = layout
        self._device = device
        self._ledger = ledger
        self._incoming: Incoming = queue.SimpleQueue()
        self._clients: Clients | None = None
        self._dialler: Dialler | None = None
        self._session = ""
        self._digests: dict[str, Tensor] = {}  # of each client's update, as the client states it
        self._taken: dict[str, Taken] = {}  # the update of each client that the aggregator has
        self._asked: Average | None = None
        self._answer: Averaged | None = None

    def open(self, dial: Callable[[Any], Dialler], clients: Clients) -> None:
        """Start to dial. clients: pumped while the server waits, and woken by what comes."""
        self._clients = clients
        self._dialler = dial(self)

    def put(self, item: object) -> None:
        """Take in an item of the dialler, in its thread."""
        self._incoming.put(item)
        self.clients.wake()

    @property
    def clients(self) -> Clients:
        """The server's clients. Raises NetworkError before `open`."""
        if self._clients is None:
            raise NetworkError("the way to the aggregator is not open")
        return self._clients

    def handed_in(self, client: str, held: HeldBlocks, update: AdapterUp) -> bool:
        """Whether the aggregator has the update that a client states.

        Raises ValueError where its sizes are not those of a client that holds these blocks.
        """
        self._digests[client] = update.values[0]
        taken = self._taken.get(client)
        if taken is None or not torch.equal(taken.digest, update.values[0]):
            return False
        check_sizes(self._settings, self._layout, held, taken.blocks, taken.sizes)
        return True

    def average(self, old: Adapter, clients: Mapping[str, tuple[int, int]], trunks: Contributions) -> Adapter:
        """Have all contributions averaged, and wait for the answer.

        Raises NetworkError where the aggregator refuses.
        """
        # One request: the clients' updates by their digests, and the trunks' adapters.
        of_trunks = [(holder, block, *one) for block, held in trunks.items() for holder, one in held.items()]
        self._asked = Average(
            secrets.token_hex(16),
            self._job_digest,
            clients=tuple(clients),
            cuts=tuple(cut for cut, _ in clients.values()),
            rows=tuple(rows for _, rows in clients.values()),
            digests=tuple(self._digests[client] for client in clients),
            blocks=tuple(old),
            old=tuple(flatten(block) for block in old.values()),
            holders=tuple(holder for holder, *_ in of_trunks),
            held=tuple(block for _, block, *_ in of_trunks),
            weights=tuple(int(weight) for *_, weight in of_trunks),
            values=tuple(flatten(adapter) for _, _, adapter, _ in of_trunks),
        )
        self._send(self._asked)
        # Meanwhile clients are served: one that restarts may have to hand in its update again.
        while self._answer is None:
            self.clients.pump()
            self.take_in()
        answer, self._answer, self._asked = self._answer, None, None
        return {
            block: unflatten(values.to(self._device), self._layout[block])
            for block, values in zip(answer.blocks, answer.values, strict=True)
        }

    def take_in(self) -> None:
        """Take in what has come from the aggregator."""
        while not self._incoming.empty():
            item = self._incoming.get()
            message = WIRE.decode(item) if isinstance(item, bytes) else item
            match message:
                case Welcome():
                    self._session = message.session
                    if self._asked is not None:
                        self._send(self._asked)
                case Taken():
                    self._taken[message.client] = message
                    self._ledger.rows["up", "control"] += message.header_bytes
                    self._ledger.rows["up", "adapter"] += 4 * sum(message.sizes)
                case Rejected(client="") | End():
                    raise NetworkError(f"the aggregator: {message.reason}")
                case Rejected():
                    self.clients.expel(message.client, message.reason)
                case Averaged() if self._asked is not None and message.request == self._asked.request:
                    self._answer = message
                case Averaged():
                    pass  # the answer to a request that was sent twice
                case _:
                    raise NetworkError(f"the aggregator sent {type(message).__name__}")

    def end(self, end: End, seconds: float) -> bool:
        """Tell the aggregator that the run is over; return whether it has confirmed that in time."""
        if self._dialler is None:
            return False
        return dismiss(self._dialler, self._incoming, self._session, end, seconds)

    def _send(self, message: Average) -> None:
        assert self._dialler is not None
        self._dialler.send(self._session, packed(message))


def dismiss(dialler: Dialler, incoming: Incoming, session: str, end: End, seconds: float) -> bool:
    """Tell an aggregator that the run is over, in every new session, until it confirms that; hang up.

    session: of the last Welcome; empty before the first. Returns whether it has confirmed within `seconds`.
    """
    deadline = time.monotonic() + seconds
    dialler.send(session, packed(end))
    heard = False
    with suppress(queue.Empty):
        while not heard:
            item = incoming.get(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(item, Welcome):
                dialler.send(item.session, packed(end))
            heard = isinstance(item, bytes) and isinstance(WIRE.decode(item), End)
            if isinstance(item, Refused):
                break
    dialler.close(over=heard)
    return heard


def dial_and_dismiss(dial: Callable[[Any], Dialler], end: End, seconds: float) -> bool:
    """Dial an aggregator only to tell it that the run is over."""
    incoming: Incoming = queue.SimpleQueue()
    return dismiss(dial(incoming), incoming, "", end, seconds)


def dial_aggregator(
    address: str, name: str, certs: Path | None, insecure: bool, token: str, notice: Callable[[str], None]
) -> Callable[[Any], Dialler]:
    """Return a function that dials the aggregator at an address, given the sink of its messages.

    certs: folder of this party's certificate; the aggregator's must then be one for that role.
    """
    credentials = channel_credentials(address, certs, insecure)
    expected = AGGREGATOR_NAME if certs else ""

    def dial(incoming: Any) -> Dialler:
        return Dialler(
            address, credentials, name, token, MAX_PAYLOAD, notice, sink=incoming, expected=expected
        )

    return dial
