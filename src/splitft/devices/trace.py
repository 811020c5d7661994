"""What clients did in a round, as far as its time depends on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepTrace:
    """One micro-batch: its shape, padding included, and the bytes of its legs to the server and back.

    One leg with labels: server, two with labels: client, none where the whole model is on the client.
    """

    rows: int
    width: int
    up_bytes: tuple[int, ...] = ()
    down_bytes: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClientTrace:
    """A client's round. cut: its blocks; state_up_bytes: optimizer state of blocks that left it, sent first.

    A cut of all the model's blocks: the whole model is on the client.
    """

    name: str
    cut: int
    adapter_down_bytes: int
    steps: tuple[StepTrace, ...]
    adapter_up_bytes: int
    state_up_bytes: int = 0
