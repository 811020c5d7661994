"""The way to an aggregator in a process of its own, for the server and for clients.

Clients hand in their adapters there, and tell the server the SHA-256 only. The server sends the adapters of
its trunks, and gets averages back.
"""

from __future__ import annotations

import hashlib
import queue
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splitft.engines.network.control import WIRE, Average, Averaged, End, Rejected, Taken, Welcome, packed
from splitft.engines.network.transport.certs import AGGREGATOR_NAME, channel_credentials
from splitft.engines.network.transport.dialler import MAX_PAYLOAD, Dialler, Item
from splitft.engines.network.transport.peers import Event
from splitft.errors import LostError, NetworkError
from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import Adapter, Layout, flatten, unflatten
from splitft.lora.ranks import HeldBlocks
from splitft.server.average import Contributions, check_sizes
from splitft.wire.ledger import Ledger
from splitft.wire.messages import AdapterUp

if TYPE_CHECKING:
    from splitft.engines.network.members import Members

SERVER = "server"  # the server's name at the aggregator
MOST_FROM_AGGREGATOR = 1 << 20  # bytes of a message to a client: a refusal, or the end

Incoming = queue.SimpleQueue[Item]
Dial = Callable[..., Dialler]  # sink: as of `Dialler`


def dial_aggregator(
    address: str, name: str, certs: Path | None, insecure: bool, token: str, notice: Callable[[str], None]
) -> Dial:
    """Return a function that dials the aggregator at an address.

    certs: folder of this party's certificate; the aggregator's must then be one for that role.
    """
    credentials = channel_credentials(address, certs, insecure)
    expected = AGGREGATOR_NAME if certs else ""
    return partial(Dialler, address, credentials, name, token, MAX_PAYLOAD, notice, expected=expected)


def digest_of(update: AdapterUp) -> Tensor:
    """Return the SHA-256 of an update's adapters, (32,) uint8."""
    digest = hashlib.sha256(repr(update.blocks).encode())
    for values in update.values:
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


class Desk:
    """A client's way to the aggregator: hands in its last update, and again in every new session.

    on_end: receives the reason where the aggregator refuses this client.
    """

    def __init__(self, dial: Dial, on_end: Callable[[str], None]) -> None:
        self._on_end = on_end
        self._dialler = dial(sink=self._take)
        self._dialler.limit(MOST_FROM_AGGREGATOR)

    def hand_in(self, update: AdapterUp) -> AdapterUp:
        """Send an update to the aggregator; return the message for the server instead."""
        self._dialler.repeat(packed(replace(update, grad_norms=None)))
        return AdapterUp(update.round, (), (digest_of(update),), update.grad_norms)

    def close(self) -> None:
        """Hang up."""
        self._dialler.close(0)

    def _take(self, item: Item) -> None:
        if not isinstance(item, bytes | Welcome):
            self._on_end(f"the aggregator refuses this client: {getattr(item, 'reason', item)}")


@dataclass(eq=False)
class AggregatorLink:
    """The server's way to the aggregator, from `open` on."""

    settings: TrainingSettings
    job_digest: str  # see `Average`
    layout: Layout
    device: torch.device
    ledger: Ledger
    incoming: Incoming = field(default_factory=queue.SimpleQueue)  # what has come from the aggregator
    # The dialler, and the clients that are served while the server waits for an answer.
    _way: tuple[Dialler, Members] | None = field(default=None, init=False)
    # Of each client's update: the digest as the client states it, and what the aggregator states of it.
    _digests: dict[str, Tensor] = field(default_factory=dict, init=False)
    _taken: dict[str, Taken] = field(default_factory=dict, init=False)
    _asked: str = field(default="", init=False)  # the request under way
    _answer: Averaged | None = field(default=None, init=False)

    def open(self, dial: Dial, members: Members) -> None:
        """Start to dial. members: pumped while the server waits, and woken by what comes."""

        def take(item: Item) -> None:
            self.incoming.put(item)
            members.listener.events.put(Event("woken", ""))

        self._way = dial(sink=take), members

    def handed_in(self, client: str, held: HeldBlocks, update: AdapterUp) -> bool:
        """Whether the aggregator has the update that a client states.

        Raises ValueError where its sizes are not those of a client that holds these blocks.
        """
        self._digests[client] = update.values[0]
        taken = self._taken.get(client)
        if taken is None or not torch.equal(taken.digest, update.values[0]):
            return False
        check_sizes(self.settings, self.layout, held, taken.blocks, taken.sizes)
        return True

    def average(self, old: Adapter, clients: Mapping[str, tuple[int, int]], trunks: Contributions) -> Adapter:
        """Have all contributions averaged, and wait for the answer.

        Raises NetworkError where the aggregator refuses.
        """
        assert self._way is not None
        dialler, members = self._way
        # One request: the clients' updates by their digests, and the trunks' adapters.
        of_trunks = [(holder, block, *one) for block, held in trunks.items() for holder, one in held.items()]
        asked = Average(
            secrets.token_hex(16),
            self.job_digest,
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
        self._asked = asked.request
        dialler.repeat(packed(asked))
        # Meanwhile clients are served: one that restarts may have to hand in its update again.
        while self._answer is None:
            members.pump()
            self.take_in()
        dialler.repeat(b"")
        answer, self._answer, self._asked = self._answer, None, ""
        return {
            block: unflatten(values.to(self.device), self.layout[block])
            for block, values in zip(answer.blocks, answer.values, strict=True)
        }

    def take_in(self) -> None:
        """Take in what has come from the aggregator."""
        while not self.incoming.empty():
            item = self.incoming.get()
            match WIRE.decode(item) if isinstance(item, bytes) else item:
                case Taken() as taken:
                    self._taken[taken.client] = taken
                    self.ledger.rows["up", "control"] += taken.header_bytes
                    self.ledger.rows["up", "adapter"] += 4 * sum(taken.sizes)
                case Rejected(client="") | End() as ended:
                    raise NetworkError(f"the aggregator: {ended.reason}")
                case Rejected() as rejected if self._way is not None:
                    self._way[1].expel(rejected.client, rejected.reason)
                case Averaged() as averaged if averaged.request == self._asked:
                    self._answer = averaged
                case Welcome() | Averaged():  # of a new session; the answer to a request that was sent twice
                    pass
                case LostError() as error:
                    raise error
                case other:
                    raise NetworkError(f"the aggregator sent {type(other).__name__}")

    def end(self, end: End, seconds: float) -> bool:
        """Tell the aggregator that the run is over; return whether it has confirmed that in time."""
        return self._way is not None and dismiss(self._way[0], self.incoming, end, seconds)


def dismiss(dialler: Dialler, incoming: Incoming, end: End, seconds: float) -> bool:
    """Tell an aggregator that the run is over until it confirms that; hang up.

    Returns whether it has confirmed within `seconds`.
    """
    deadline = dialler.now() + seconds
    dialler.repeat(packed(end))
    item: Item = b""
    heard = False
    with suppress(queue.Empty):
        while not heard and isinstance(item, bytes | Welcome):  # the aggregator has not refused this server
            item = incoming.get(timeout=max(0.0, deadline - dialler.now()))
            heard = isinstance(item, bytes) and isinstance(WIRE.decode(item), End)
    dialler.close(over=heard)
    return heard


def dial_and_dismiss(dial: Dial, end: End, seconds: float) -> bool:
    """Dial an aggregator only to tell it that the run is over."""
    dialler = dial()
    return dismiss(dialler, dialler.incoming, end, seconds)
