"""What clients did in a round, as far as its time depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def batch_shape(lengths: Sequence[int], padding_free: bool) -> tuple[float, float]:
    """Return (rows, width) of what is computed of a batch.

    Without padding these are no whole numbers: rows · width are the tokens, rows · width² the pairs of tokens
    of a row.
    """
    if not padding_free:
        return len(lengths), max(lengths)
    tokens = sum(lengths)
    width = sum(length**2 for length in lengths) / tokens
    return tokens / width, width


@dataclass(frozen=True)
class StepTrace:
    """One micro-batch: its `batch_shape`, and the bytes of its legs to the server and back.

    One leg with labels: server, two with labels: client, none where the whole model is on the client.
    """

    rows: float
    width: float
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
