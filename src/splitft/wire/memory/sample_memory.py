"""Memory of training samples at one end of a connection. The base class is the memory that stays empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from splitft.common.state import State
from splitft.wire.codecs.rows import RowCodec
from splitft.wire.messages import Activations


class SampleMemory:
    """An empty memory: every batch goes whole. Both ends of a connection have a memory of the same class.

    A client asks its end which samples of a batch to compute (`missing`). `pack` and `unpack` see every
    training batch once, at one end each, and so both ends remember the same samples. The other methods keep
    the ends equal through rounds, moves of the cut, lost connections and checkpoints.
    """

    def missing(self, samples: Sequence[int], lengths: Sequence[int]) -> Sequence[int] | None:
        """Return the places in a batch of the samples to send, each computed alone; None: the whole batch."""
        return None

    def pack(self, message: Activations, codec: RowCodec) -> Activations:
        """Return a training batch as it is sent. Raises DivergedError and ModelError, as the codec does."""
        hidden, parts = codec.pack(message.hidden, message.lengths)
        return replace(message, hidden=hidden, packed=parts, samples=())

    def unpack(self, message: Activations, codec: RowCodec) -> Activations:
        """Return a training batch with the rows of all samples. Raises ValueError where they do not fit."""
        if message.samples:
            raise ValueError(f"samples: {len(message.samples)} where none are remembered")
        hidden = codec.unpack(message.hidden, message.packed, message.lengths)
        return replace(message, hidden=hidden, packed=())

    def forget(self) -> None:
        """Forget, as the other end does: a session starts, or a round goes on without the client."""

    def move(self, cut: int) -> None:
        """Follow the client's cut: activations at another cut are other ones."""

    def mark(self) -> None:
        """Mark the state at the start of a round's local steps."""

    def rewind(self) -> None:
        """Restore the state at the mark."""

    @property
    def offer(self) -> str:
        """The server's digest of the state at the mark; empty: nothing is kept."""
        return ""

    def agree(self, offer: str) -> str:
        """Compare the client's end with the server's offer; return the digest of the agreed state."""
        return ""

    def accept(self, digest: str) -> None:
        """Start the server's end from the digest that the client agreed to: the mark, or nothing.

        Raises:
            ValueError: The digest is another one.
        """
        if digest:
            raise ValueError("memory: the client keeps samples in a job without a memory of samples")

    def state(self) -> State | None:
        """Return all that outlasts a round, as a checkpoint holds it; None where nothing does."""
        return None

    def load_state(self, state: State | None) -> None:
        """Restore a state returned by `state()`."""
