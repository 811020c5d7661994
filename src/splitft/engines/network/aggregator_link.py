"""The way to an aggregator in a process of its own, for the server and for clients. (ours)

Clients hand in what they trained there, and tell the server its SHA-256 only. The server sends what its
trunks trained, and gets averages back.
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
from typing import Any

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
from splitft.job import Job
from splitft.lora.blocks import Adapter, Layout, flatten, unflatten
from splitft.lora.ranks import HeldBlocks
from splitft.server.average import Contributions, check_sizes
from splitft.wire.ledger import Ledger
from splitft.wire.messages import AdapterUp

SERVER = "server"  # the server's name at the aggregator
MAX_PAYLOAD = 1 << 31  # of what an aggregator may send: averages


Incoming = queue.SimpleQueue[Any]  # what a dialler brings


def job_digest(job: Job) -> str:
    """Return the SHA-256 of what server and aggregator must agree on."""
    return hashlib.sha256(job.model_dump_json(exclude={"output_dir"}).encode()).hexdigest()


def digest_of(update: AdapterUp) -> Tensor:
    """Return the SHA-256 of an update's adapters, (32,) uint8."""
    digest = hashlib.sha256(repr(update.blocks).encode())
    for values in update.values:
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


class Desk:
    """A client's way to the aggregator: hands in its last update, and again to one that comes anew."""

    def __init__(self, dial: Callable[[Any], Dialler], on_end: Callable[[str], None]) -> None:
        self._session = ""
        self._last = b""
        self._on_end = on_end
        self._dialler = dial(self)

    def hand_in(self, update: AdapterUp) -> AdapterUp:
        """Send an update to the aggregator; return what the server is told instead."""
        self._last = packed(replace(update, grad_norms=None))
        self._dialler.send(self._session, self._last)
        return AdapterUp(update.round, (), (digest_of(update),), update.grad_norms)

    def put(self, item: object) -> None:
        """Take what the dialler's thread brings: nothing is asked of a client here."""
        if isinstance(item, Welcome):
            self._session = item.session
            if self._last:
                self._dialler.send(self._session, self._last)
        elif not isinstance(item, bytes):
            self._on_end(f"the aggregator refuses this client: {getattr(item, 'reason', '')}")

    def close(self) -> None:
        """Hang up."""
        self._dialler.close(0)


class AggregatorLink:
    """The server's way to the aggregator, once it is opened.

    wake, pump: pump takes in what comes from clients for a while, or until it is woken. expel: is told of
    clients whose update was rejected.
    """

    def __init__(self, job: Job, layout: Layout, device: torch.device, ledger: Ledger) -> None:
        self._job = job
        self._layout = layout
        self._device = device
        self._ledger = ledger
        self._incoming: Incoming = queue.SimpleQueue()
        self._dialler: Dialler | None = None
        self._session = ""
        self._digests: dict[str, Tensor] = {}  # of what each client says that it handed in
        self._taken: dict[str, Taken] = {}  # of what the aggregator says that it has of each
        self._asked: Average | None = None
        self._answer: Averaged | None = None
        self.wake: Callable[[], None] = lambda: None
        self.pump: Callable[[], None] = lambda: None
        self.expel: Callable[[str, str], None] = lambda name, reason: None

    def open(self, dial: Callable[[Any], Dialler]) -> None:
        """Start to dial."""
        self._dialler = dial(self)

    def put(self, item: object) -> None:
        """Take what the dialler's thread brings."""
        self._incoming.put(item)
        self.wake()

    def handed_in(self, client: str, held: HeldBlocks, update: AdapterUp) -> bool:
        """Whether the aggregator has what a client says that it handed in.

        Raises ValueError where that is not what a client that holds these blocks trains.
        """
        self._digests[client] = update.values[0]
        taken = self._taken.get(client)
        if taken is None or not torch.equal(taken.digest, update.values[0]):
            return False
        check_sizes(self._job, self._layout, held, taken.blocks, taken.sizes)
        return True

    def average(self, old: Adapter, clients: Mapping[str, tuple[int, int]], trunks: Contributions) -> Adapter:
        """Have all contributions averaged; waits for the answer. Raises NetworkError where there is none."""
        of_trunks = [(holder, block, *one) for block, held in trunks.items() for holder, one in held.items()]
        self._asked = Average(
            secrets.token_hex(16),
            job_digest(self._job),
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
        while self._answer is None:
            self.pump()
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
                    self._ledger.add("up", "control", message.header_bytes)
                    self._ledger.add("up", "adapter", 4 * sum(message.sizes))
                case Rejected(client="") | End():
                    raise NetworkError(f"the aggregator: {message.reason}")
                case Rejected():
                    self.expel(message.client, message.reason)
                case Averaged() if self._asked is not None and message.request == self._asked.request:
                    self._answer = message
                case Averaged():
                    pass  # to a request that was sent twice
                case _:
                    raise NetworkError(f"the aggregator sent {type(message).__name__}")

    def end(self, end: End, seconds: float) -> bool:
        """Tell the aggregator that the run is over; return whether it has heard, after so long at most."""
        if self._dialler is None:
            return False
        return dismiss(self._dialler, self._incoming, self._session, end, seconds)

    def _send(self, message: Average) -> None:
        assert self._dialler is not None
        self._dialler.send(self._session, packed(message))


def dismiss(dialler: Dialler, incoming: Incoming, session: str, end: End, seconds: float) -> bool:
    """Tell an aggregator that the run is over, again where it comes anew, until it says so, too; hang up.

    session: the last Welcome's; empty: none has come. Returns whether it has heard within `seconds`.
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


def dial_aggregator(
    job: Job, name: str, certs: Path | None, insecure: bool, token: str, notice: Callable[[str], None]
) -> Callable[[Any], Dialler]:
    """Return what dials a job's aggregator, given where to put what comes.

    certs: folder of this party's certificate; then the aggregator's must be one for that role.
    """
    address = str(job.network.aggregator)
    credentials = channel_credentials(address, certs, insecure)
    expected = AGGREGATOR_NAME if certs else ""

    def dial(incoming: Any) -> Dialler:
        return Dialler(
            address, credentials, name, token, MAX_PAYLOAD, notice, sink=incoming, expected=expected
        )

    return dial
