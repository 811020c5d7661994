"""Fixed-point numbers of a sum modulo 2^32, which is exact in whatever order its terms come."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

RING_BITS = 32


class RangeError(ValueError):
    """A value lies outside the range of a sum. largest: its size."""

    def __init__(self, largest: float, most: float) -> None:
        super().__init__(f"{largest:.3g} is outside of the range of a sum, ±{most:g}")
        self.largest = largest


@dataclass(frozen=True)
class FixedPoint:
    """The numbers of one sum of `count` clients, whose values lie in ±`most`.

    A client's number is at most (2^31 - 1) / count in size, so that no sum wraps. Each is rounded once: the
    mean that `decode` returns is off by at most `error`.
    """

    most: float
    count: int

    @property
    def bits(self) -> int:
        """Fractional bits of a number."""
        return math.floor(math.log2(((1 << (RING_BITS - 1)) - 1) // self.count / self.most))

    def encode(self, values: Tensor, share: float) -> Tensor:
        """Return values times a share as numbers of the ring.

        Args:
            values: Floating point, of any shape.
            share: The client's weight as a share of the largest, 0 to 1.

        Returns int32. Raises RangeError where a value is outside of the range, or not finite.
        """
        largest = float(values.abs().max()) if values.numel() else 0.0
        if not largest <= self.most:
            raise RangeError(largest, self.most)
        return (values.double() * (share * 2.0**self.bits)).round_().to(torch.int32)

    def decode(self, total: Tensor, shares: float) -> Tensor:
        """Return the weighted mean that a sum of numbers is of.

        Args:
            total: int32, of any shape.
            shares: The sum of the shares of the clients in it.

        Returns float64.
        """
        return total.double() / (shares * 2.0**self.bits)

    def error(self, shares: float) -> float:
        """Return the largest error of a decoded mean, by the rounding of every client's number."""
        return self.count * 0.5 / (shares * 2.0**self.bits)
