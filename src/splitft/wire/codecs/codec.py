"""What a codec is: how rows of activations, or of their gradients, cross the wire. (ours)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A tensor of what is sent: what its values are, and their type and shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Codec(Protocol):
    """Turns (tokens, width) values into tensors that are smaller, and back; without any state.

    lengths: tokens of each sample, whose rows stand one after another. Both ends know them and the width, and
    so what the parts must be: nothing about their form is sent.
    """

    def layout(self, lengths: Sequence[int], width: int) -> tuple[Part, ...]:
        """Return the form of what `encode` gives for rows of these lengths."""

    def encode(self, rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the parts for (tokens, width) rows of any floating type.

        Raises ValueError where a value is not finite.
        """

    def decode(self, parts: Sequence[Tensor], lengths: Sequence[int], width: int) -> Tensor:
        """Return the rows, (tokens, width) float32, that parts of the right layout stand for."""


@dataclass(frozen=True)
class Shapes:
    """A codec's form without its values, for plans: parts with nothing in them; rows of zeros come back."""

    codec: Codec

    def layout(self, lengths: Sequence[int], width: int) -> tuple[Part, ...]:
        return self.codec.layout(lengths, width)

    def encode(self, rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
        parts = self.layout(lengths, rows.shape[1])
        return tuple(torch.empty(part.shape, dtype=part.dtype) for part in parts)

    def decode(self, parts: Sequence[Tensor], lengths: Sequence[int], width: int) -> Tensor:
        return torch.zeros(1, 1).expand(sum(lengths), width)


def check_finite(numbers: Tensor) -> None:
    """Raise ValueError where one of these numbers, made of all values of some rows, is not finite."""
    if numbers.numel() and not math.isfinite(float(numbers.sum())):
        raise ValueError("a value is infinite, not a number, or too large")
