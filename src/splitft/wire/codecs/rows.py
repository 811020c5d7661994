"""A codec at one end of a connection: rows of a message packed for the way, and unpacked after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from splitft.errors import DivergedError, ModelError
from splitft.wire.codecs.codec import Codec, Part


@dataclass(frozen=True)
class RowCodec:
    """Packs and unpacks (tokens, width) rows. codec: None leaves them as they are."""

    codec: Codec | None
    width: int

    def pack(self, rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the rows and the parts to send; one of the two is empty.

        Raises:
            DivergedError: A value is not finite.
            ModelError: The hidden states are not rows of this width.
        """
        if self.codec is None:
            return rows, ()
        check_rows(rows, self.width)
        try:
            return rows.new_empty(0), self.codec.encode(rows, lengths)
        except ValueError as error:
            raise diverged(error) from None

    def unpack(self, rows: Tensor, parts: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
        """Return the rows that arrived: float32, or as they were sent.

        Raises:
            ValueError: The parts are not those of the codec for samples of these lengths.
        """
        if self.codec is None:
            if parts:
                raise ValueError("packed: this job has no codec")
            return rows
        check_parts(rows, parts, self.codec.layout(lengths, self.width))
        return self.codec.decode(parts, lengths, self.width)


def check_rows(rows: Tensor, width: int) -> None:
    """Raise ModelError where hidden states are not rows of this width."""
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ModelError(f"hidden states are not rows of {width} numbers a token: set codec: none")


def check_parts(rows: Tensor | None, parts: Sequence[Tensor], layout: Sequence[Part]) -> None:
    """Raise ValueError where parts have another form than their layout, or where rows came beside them."""
    if rows is not None and rows.numel():
        raise ValueError(f"hidden: {tuple(rows.shape)} beside the packed parts")
    wanted = [(part.dtype, part.shape) for part in layout]
    found = [(part.dtype, tuple(part.shape)) for part in parts]
    if found != wanted:
        raise ValueError(f"packed: {found[:4]}, not {wanted[:4]}")


def diverged(error: ValueError) -> DivergedError:
    """Return the error for a user whose model computes values that no codec can encode."""
    return DivergedError(
        f"activations or gradients cannot be sent: {error}; training has diverged: lower learning_rate"
    )
