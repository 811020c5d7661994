"""Whole numbers of 1 to 4 bits, packed into bytes."""

from __future__ import annotations

import torch
from torch import Tensor

PER_BYTE = {4: 2, 2: 4, 1: 8}


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes of so many numbers, a multiple of 8."""
    return count * bits // 8


def pack_bits(numbers: Tensor, bits: int) -> Tensor:
    """Pack (…, count) uint8 numbers below 2^bits into (…, count x bits / 8) bytes; count is a multiple of 8.

    3 bits are a plane of the lower two and a plane of the highest, one after the other.
    """
    if bits == 3:
        return torch.cat([pack_bits(numbers & 3, 2), pack_bits(numbers >> 2, 1)], dim=-1)
    each = PER_BYTE[bits]
    slices = numbers.chunk(each, dim=-1)
    packed = slices[0].clone()
    for place, part in enumerate(slices[1:], start=1):
        packed |= part << (bits * place)
    return packed


def unpack_bits(packed: Tensor, bits: int) -> Tensor:
    """Undo `pack_bits`."""
    if bits == 3:
        third = packed.shape[-1] // 3
        low, high = packed.narrow(-1, 0, 2 * third), packed.narrow(-1, 2 * third, third)
        return unpack_bits(low, 2) | (unpack_bits(high, 1) << 2)
    mask = (1 << bits) - 1
    parts = [(packed >> (bits * place)) & mask for place in range(PER_BYTE[bits])]
    return torch.cat(parts, dim=-1)
