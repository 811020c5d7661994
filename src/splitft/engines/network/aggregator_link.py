"""The server's way to an aggregator in a process of its own, which gets clients' adapters in its place.

The server sends the adapters of its trunks, and gets averages back. It takes none on trust: an average that
no updates of this round can have is refused (`server/average_check.py`), and the run ends.
"""

from __future__ import annotations

import queue
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splitft.common.text import plain
from splitft.engines.network.control import (
    TICKET_BYTES,
    WIRE,
    Average,
    Averaged,
    End,
    HandIn,
    Refused,
    Rejected,
    Said,
    Taken,
    Unaveraged,
    Welcome,
    packed,
)
from splitft.engines.network.desk import Dial
from splitft.engines.network.gate import SLACK
from splitft.engines.network.transport.certs import AGGREGATOR_NAME
from splitft.engines.network.transport.credentials import channel_credentials
from splitft.engines.network.transport.dialler import MAX_PAYLOAD, Dialler, Item
from splitft.engines.network.transport.peers import Event
from splitft.errors import AggregatorError
from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import Adapter, Layout, flatten
from splitft.lora.ranks import HeldBlocks, held_blocks
from splitft.lora.reach import reach_of_rounds
from splitft.server.average import Contributions, UpdatesError, check_sizes
from splitft.server.average_check import checked_average
from splitft.wire.ledger import Ledger
from splitft.wire.messages import AdapterUp

if TYPE_CHECKING:
    from splitft.engines.network.members import Members
    from splitft.engines.network.roster import Member

SERVER = "server"  # the server's name at the aggregator
SHOWN = 300  # characters of the aggregator's own words
MOST_WAITING = 1 << 26  # bytes of messages that have come and were not used, beside two of the largest size
ADVICE = "nothing of it was used; mend the aggregator, and go on with `splitft server … --resume`"

Incoming = queue.SimpleQueue[Item]


def dial_aggregator(
    address: str, name: str, certs: Path | None, insecure: bool, token: str, notice: Callable[[str], None]
) -> Dial:
    """Return a function that dials the aggregator at an address.

    certs: folder of this party's certificate; the aggregator's must then be one for that role.
    """
    credentials = channel_credentials(address, certs, insecure)
    expected = AGGREGATOR_NAME if certs else ""
    return partial(Dialler, address, credentials, name, token, MAX_PAYLOAD, notice, expected=expected)


@dataclass(eq=False)
class AggregatorLink:
    """The server's way to the aggregator, from `open` on."""

    settings: TrainingSettings
    job_digest: str  # see `Average`
    layout: Layout
    ledger: Ledger
    incoming: Incoming = field(default_factory=queue.SimpleQueue)  # what has come from the aggregator
    # The dialler, and the clients that are served while the server waits for an answer.
    _way: tuple[Dialler, Members] | None = field(default=None, init=False)
    _came: int = field(default=0, init=False)  # bytes, counted by the dialler's thread
    _used: int = field(default=0, init=False)  # of these
    # Of each client's update: its digest and its ticket as the client states them, what the aggregator states
    # of it, and the digest of the last one that both agree on.
    _stated: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)
    _taken: dict[str, Taken] = field(default_factory=dict, init=False)
    _agreed: dict[str, Tensor] = field(default_factory=dict, init=False)
    _refused: dict[str, str] = field(default_factory=dict, init=False)  # clients, and why
    _asked: Average | None = field(default=None, init=False)  # the request under way
    _answer: Averaged | Unaveraged | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._reach = reach_of_rounds(self.settings)
        values = sum(torch.Size(spec.shape).numel() for specs in self.layout.values() for spec in specs)
        self._most = 4 * values + SLACK  # bytes of an answer

    def open(self, dial: Dial, members: Members) -> None:
        """Start to dial. members: pumped while the server waits, and woken by what comes."""
        flooded = False

        def take(item: Item) -> None:
            nonlocal flooded
            if isinstance(item, bytes):
                self._came += len(item)
                waiting = self._came - self._used
                if flooded:
                    return
                if waiting > 2 * self._most + MOST_WAITING:
                    flooded = True
                    item = AggregatorError(f"it floods the server: {waiting} bytes wait; {ADVICE}")
            self.incoming.put(item)
            members.listener.events.put(Event("woken", ""))

        dialler = dial(sink=take)
        dialler.limit(self._most)
        self._way = dialler, members

    def handed_in(self, client: str, held: HeldBlocks, update: AdapterUp) -> bool:
        """Whether the aggregator has the update that a client states.

        Raises ValueError where its sizes are not those of a client that holds these blocks, or where the
        client handed in another one.
        """
        digest, ticket = self._stated[client] = update.values[0], update.values[1]
        taken = self._taken.get(client)
        if taken is None:
            return False
        if not torch.equal(taken.digest, digest):
            if torch.equal(taken.ticket, ticket):
                raise ValueError(
                    "it handed in another update to the aggregator than it stated, by the aggregator's word"
                )
            return False
        try:
            check_sizes(self.settings, self.layout, held, taken.blocks, taken.sizes)
        except ValueError as error:
            raise ValueError(f"by the aggregator's word it handed in {error}") from None
        if client not in self._agreed or not torch.equal(self._agreed[client], digest):
            self._agreed[client] = digest
            self._count(update.round, taken)
        return True

    def average(
        self, round_: int, old: Adapter, clients: Mapping[str, tuple[int, int]], trunks: Contributions
    ) -> Adapter:
        """Have all contributions averaged, and wait for the answer.

        Raises UpdatesError where clients' updates cannot be averaged, and AggregatorError where the
        aggregator refuses, or answers what cannot be.
        """
        answer = self._ask(round_, old, clients, trunks)
        assert self._way is not None
        num_blocks = self._way[1].coordinator.num_blocks
        held = [held_blocks(self.settings, num_blocks, cut) for cut, _ in clients.values()]
        given = self.settings, self.layout, old, held, trunks, self._reach(round_)
        try:
            return checked_average(*given, answer.blocks, answer.values)
        except ValueError as error:
            raise AggregatorError(f"the aggregator's average of round {round_}: {error}; {ADVICE}") from None

    def added(
        self, round_: int, clients: Mapping[str, tuple[int, int]], sizes: Sequence[int]
    ) -> list[Tensor]:
        """Have clients' masked updates added, modulo 2^32; return the sum, an int32 tensor a block.

        sizes: Values of each block. Raises as `average` does.
        """
        values = self._ask(round_, {}, clients, {}).values
        if any(one.dtype is not torch.int32 for one in values) or [one.numel() for one in values] != [*sizes]:
            raise AggregatorError(f"the aggregator's sum of round {round_} is of another form; {ADVICE}")
        return [*values]

    def _ask(
        self, round_: int, old: Adapter, clients: Mapping[str, tuple[int, int]], trunks: Contributions
    ) -> Averaged:
        """Send a request, and wait for its answer. Raises UpdatesError where updates cannot be averaged."""
        assert self._way is not None
        dialler, members = self._way
        if refused := {client: why for client, why in self._refused.items() if client in clients}:
            raise UpdatesError(refused)
        digests = tuple(self._stated[client][0] for client in clients)
        asked = self._asked = _request(self.job_digest, round_, old, clients, digests, trunks)
        dialler.repeat(packed(asked))
        # Meanwhile clients are served: one that restarts may have to hand in its update again.
        while self._answer is None:
            members.pump()
            self.take_in()
        dialler.repeat(b"")
        answer, self._answer, self._asked = self._answer, None, None
        if isinstance(answer, Unaveraged):
            raise UpdatesError(_reasons(asked, answer))
        return answer

    def take_in(self) -> None:
        """Take in what has come from the aggregator.

        Raises AggregatorError where it refuses the server, ends, or sends what is no answer to the server.
        """
        while not self.incoming.empty():
            item = self.incoming.get()
            if isinstance(item, bytes):
                self._used += len(item)
            match _read(item) if isinstance(item, bytes) else item:
                case Taken() as taken:
                    self._take(taken)
                case Rejected(client="") | End() | Refused() as ended:
                    raise AggregatorError(f"the aggregator: {plain(ended.reason, SHOWN)}")
                case Rejected() as rejected:
                    self._reject(rejected)
                case Averaged() | Unaveraged() as answer:  # also to a request of before, or once more
                    if self._asked is not None and answer.request == self._asked.request:
                        self._answer = self._answer or answer
                case Welcome():  # of a new session
                    pass
                case Exception() as error:
                    raise AggregatorError(f"the aggregator: {error}")
                case other:
                    raise AggregatorError(f"the aggregator sent {type(other).__name__}; {ADVICE}")

    def end(self, end: End, seconds: float) -> bool:
        """Tell the aggregator that the run is over; return whether it has confirmed that in time."""
        return self._way is not None and dismiss(self._way[0], self.incoming, end, seconds)

    def hang_up(self) -> None:
        """Hang up; the aggregator keeps what it has."""
        if self._way is not None:
            self._way[0].close(0)

    def _take(self, taken: Taken) -> None:
        self._known(taken.client, "has an update")
        forms = [(tensor.dtype, tuple(tensor.shape)) for tensor in (taken.digest, taken.ticket)]
        if forms != [(torch.uint8, (32,)), (torch.uint8, (TICKET_BYTES,))]:
            raise AggregatorError(f"the aggregator sent a digest of another form; {ADVICE}")
        self._taken[taken.client] = taken

    def _reject(self, rejected: Rejected) -> None:
        """Expel a client that the aggregator refuses: what it sent there cannot be seen here."""
        assert self._way is not None
        client, member = rejected.client, self._known(rejected.client, "refuses what was sent")
        why = self._refused.setdefault(client, refusal(rejected.reason))
        if self._asked is not None and client in self._asked.clients and self._answer is None:
            self._answer = Unaveraged(self._asked.request, (client,), (rejected.reason,))
        if not member.expelled:
            self._way[1].expel(client, why)

    def _known(self, client: str, does: str) -> Member:
        assert self._way is not None
        roster = self._way[1].roster
        if client not in roster:
            who = plain(client, 60)
            raise AggregatorError(f"the aggregator {does} by {who!r}, who is no client of this run; {ADVICE}")
        return roster[client]

    def _count(self, round_: int, taken: Taken) -> None:
        """Count the bytes of a client's update, which went to the aggregator."""
        values = tuple(torch.empty(size, device="meta") for size in taken.sizes)
        header, tensors = WIRE.size(HandIn(taken.ticket, round_, taken.blocks, values))
        adapter = 4 * sum(taken.sizes)
        self.ledger.rows["up", "control"] += header + tensors - adapter
        self.ledger.rows["up", "adapter"] += adapter


def refusal(reason: str) -> str:
    """Return the reason for which a client is expelled that the aggregator refuses."""
    return f"the aggregator refuses what it handed in, and says: {plain(reason, SHOWN)}"


def _request(
    job: str,
    round_: int,
    old: Adapter,
    clients: Mapping[str, tuple[int, int]],
    digests: tuple[Tensor, ...],
    trunks: Contributions,
) -> Average:
    """Return one request: the clients' updates by their digests, and the trunks' adapters."""
    of_trunks = [(holder, block, *one) for block, held in trunks.items() for holder, one in held.items()]
    return Average(
        secrets.token_hex(16),
        job,
        round_,
        clients=tuple(clients),
        cuts=tuple(cut for cut, _ in clients.values()),
        rows=tuple(rows for _, rows in clients.values()),
        digests=digests,
        blocks=tuple(old),
        old=tuple(flatten(block) for block in old.values()),
        holders=tuple(holder for holder, *_ in of_trunks),
        held=tuple(block for _, block, *_ in of_trunks),
        weights=tuple(int(weight) for *_, weight in of_trunks),
        values=tuple(flatten(adapter) for _, _, adapter, _ in of_trunks),
    )


def _reasons(asked: Average, answer: Unaveraged) -> dict[str, str]:
    """Return for which reason each client's update cannot be averaged. Raises AggregatorError."""
    names = answer.clients
    known = set(names) <= set(asked.clients) and len(set(names)) == len(names) == len(answer.reasons)
    if not names or not known:
        who = plain(", ".join(names[:9]), 99)
        raise AggregatorError(f"the aggregator will not average {who or 'nobody'} of this request; {ADVICE}")
    return {name: refusal(reason) for name, reason in zip(names, answer.reasons, strict=True)}


def _read(payload: bytes) -> Said:
    """Return a message of the aggregator. Raises AggregatorError."""
    try:
        return WIRE.decode(payload)
    except ValueError as error:
        what = plain(str(error), SHOWN)
        raise AggregatorError(f"the aggregator sent what cannot be read ({what}); {ADVICE}") from None


def dismiss(dialler: Dialler, incoming: Incoming, end: End, seconds: float) -> bool:
    """Tell an aggregator that the run is over until it confirms that; hang up.

    Returns whether it has confirmed within `seconds`.
    """
    deadline = dialler.now() + seconds
    dialler.repeat(packed(end))
    item: Item = b""
    heard = False
    with suppress(queue.Empty, AggregatorError):
        while not heard and isinstance(item, bytes | Welcome):  # the aggregator has not refused this server
            item = incoming.get(timeout=max(0.0, deadline - dialler.now()))
            heard = isinstance(item, bytes) and isinstance(_read(item), End)
    dialler.close(over=heard)
    return heard


def dial_and_dismiss(dial: Dial, end: End, seconds: float) -> bool:
    """Dial an aggregator only to tell it that the run is over."""
    dialler = dial()
    return dismiss(dialler, dialler.incoming, end, seconds)
