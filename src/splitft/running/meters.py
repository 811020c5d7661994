"""What measures, round by round, how much of the text clients' activations tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from splitft.client.client import ClientRole
from splitft.history import RoundRecord
from splitft.lora.blocks import Adapter
from splitft.running.prepare import Assembly


class Meter(Protocol):
    """Reads what clients would send of their rows with a round's adapter; trains and changes nothing."""

    def begin(self, start: Assembly) -> None:
        """Prepare for a run. Raises JobError where its clients send no activations."""
        ...

    def read(self, record: RoundRecord, adapter: Adapter) -> Mapping[str, Mapping[str, float]]:
        """Return {client: {figure: value}} after a round; empty where none is due.

        adapter: The global one after the round.
        """
        ...

    def lines(self, record: RoundRecord) -> list[str]:
        """Return a line for people of each client in a record with readings."""
        ...


class OwnMeter(Protocol):
    """Reads, at one client of a network, what it sends of its own rows; nothing of it leaves the client."""

    def lines(self, client: ClientRole, round_: int, rounds: int) -> list[str]:
        """Return lines for the client's owner after a round; empty where no reading is due."""
        ...
