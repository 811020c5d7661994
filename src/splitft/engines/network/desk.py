"""A client's way to an aggregator: it hands in its adapters there, and tells the server their SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

import torch
from torch import Tensor

from splitft.engines.network.control import TICKET_BYTES, End, HandIn, Welcome, packed
from splitft.engines.network.transport.dialler import Dialler, Item
from splitft.errors import AggregatorError
from splitft.wire.messages import AdapterUp

MOST_FROM_AGGREGATOR = 1 << 16  # bytes of a message to a client: the reason of an end


Dial = Callable[..., Dialler]  # sink: as of `Dialler`


def digest_of(blocks: tuple[int, ...], values: tuple[Tensor, ...]) -> Tensor:
    """Return the SHA-256 of an update's adapters, (32,) uint8."""
    digest = hashlib.sha256(repr(blocks).encode())
    for one in values:
        digest.update(one.detach().cpu().contiguous().numpy().tobytes())
    return _bytes(digest.digest())


class Desk:
    """Hands in a client's last update, and again in every new session.

    Of all that comes from the aggregator a refusal and an end count, and nothing else is read.

    on_end: receives the error where the aggregator lets this client go on no more.
    """

    def __init__(self, dial: Dial, on_end: Callable[[AggregatorError], None]) -> None:
        self._on_end = on_end
        self._dialler = dial(sink=self._take)
        self._dialler.limit(MOST_FROM_AGGREGATOR)

    def hand_in(self, update: AdapterUp) -> AdapterUp:
        """Send an update to the aggregator; return the message for the server instead.

        Both have the update's ticket, drawn at random: a digest of this ticket is one of this update.
        """
        ticket = _bytes(secrets.token_bytes(TICKET_BYTES))
        self._dialler.repeat(packed(HandIn(ticket, update.round, update.blocks, update.values)))
        digest = digest_of(update.blocks, update.values)
        return AdapterUp(update.round, (), (digest, ticket), update.grad_norms)

    def close(self) -> None:
        """Hang up."""
        self._dialler.close(0)

    def _take(self, item: Item) -> None:
        if isinstance(item, bytes | Welcome):
            return
        if isinstance(item, Exception):
            self._on_end(AggregatorError(f"the aggregator: {item}"))
        else:
            does = "has ended" if isinstance(item, End) else "refuses this client"
            self._on_end(AggregatorError(f"the aggregator {does}: {item.reason}"))


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
