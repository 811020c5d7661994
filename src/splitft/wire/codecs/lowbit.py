"""Whole numbers of 1 to 4 bits, packed into bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.linalg import vector_norm

from splitft.wire.codecs.codec import Part, check_finite
from splitft.wire.codecs.int8 import GROUP, MOST, TINY, Int8, in_groups, rounded

# Of uniform levels for normal values, in deviations (Max, 1960).
STEPS = {4: 0.3352, 3: 0.5860, 2: 0.9957, 1: 1.5958}
OCTAVE = 16  # levels of a group's scale per factor of two below the row's
ZERO = 255  # the level of a group that is zero
CHUNK = 256  # rows at a time
OUTLIERS = 8  # dimensions of activations that are sent apart
FIRST = Int8()  # of first tokens


def pack_bits(numbers: Tensor, bits: int) -> Tensor:
    """Pack (…, count) uint8 numbers below 2^bits into (…, count x bits / 8) bytes; count is a multiple of 8.

    3 bits are a plane of the lower two and a plane of the highest, one after the other.
    """
    if bits == 3:
        return torch.cat([pack_bits(numbers & 3, 2), pack_bits(numbers >> 2, 1)], dim=-1)
    slices = numbers.chunk(8 // bits, dim=-1)
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
    parts = [(packed >> (bits * place)) & mask for place in range(8 // bits)]
    return torch.cat(parts, dim=-1)


@lru_cache(maxsize=4)
def rotation(device: torch.device) -> Tensor:
    """Return the (64, 64) matrix, orthogonal; the same on every machine."""
    matrix = torch.ones(1, 1)
    while len(matrix) < GROUP:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    signs = [1 if (0x9E3779B97F4A7C15 >> place) & 1 else -1 for place in range(GROUP)]  # golden ratio's bits
    matrix *= torch.tensor(signs)
    return matrix.div_(GROUP**0.5).to(device)


def rotate(rows: Tensor) -> Tensor:
    """Return (…, 64) float32 values rotated."""
    return rows @ rotation(rows.device).T


def rotate_back(rows: Tensor, out: Tensor) -> None:
    """Undo `rotate`, into `out`."""
    torch.matmul(rows, rotation(rows.device), out=out)


@dataclass(frozen=True)
class LowBit:
    """bits: of a value. outliers: dimensions sent apart. apart: first tokens are, and groups have scales.

    Gradients have neither. Differences of activations have outliers, but first tokens like all others.
    """

    bits: int
    outliers: int = 0
    apart: bool = False

    def layout(self, lengths: Sequence[int], width: int) -> tuple[Part, ...]:
        samples = len(lengths) if self.apart else 0
        rows, groups, columns = sum(lengths) - samples, -(-width // GROUP), self._columns(width)
        codes = groups * GROUP * self.bits // 8
        parts = [Part("scales", torch.bfloat16, (rows,)), Part("codes", torch.uint8, (rows, codes))]
        if columns:
            parts.append(Part("columns", torch.int32, (columns,)))
            parts.append(Part("outlier_scales", torch.bfloat16, (columns,)))
            parts.append(Part("outliers", torch.int8, (rows, columns)))
        if self.apart:
            parts.append(Part("levels", torch.uint8, (rows, groups)))
            parts += FIRST.layout([1] * samples, width)
        return tuple(parts)

    def encode(self, rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
        first, others = self._split(len(rows), lengths, rows.device)
        extra: list[Tensor] = []
        columns: Tensor | None = None
        if count := self._columns(rows.shape[1]):
            sample = rows[others[:: 1 + len(others) // CHUNK]].float()
            columns = vector_norm(sample, dim=0).topk(count).indices.sort().values
            apart = rows[:, columns].float()[others]
            largest = apart.abs().amax(0) if len(others) else apart.sum(0)
            check_finite(largest)
            outlier_scales = (largest / MOST).to(torch.bfloat16)
            extra += [columns.int(), outlier_scales, rounded(apart, outlier_scales)]
        made = [self._encode_some(some, columns) for some in torch.split(rows, CHUNK)]
        scales, codes, levels = (torch.cat(parts)[others] for parts in zip(*made, strict=True))
        check_finite(scales.float())
        if self.apart:
            extra += [levels, *FIRST.encode(rows[first], [1] * len(lengths))]
        return scales, codes, *extra

    def _encode_some(self, rows: Tensor, columns: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return scales, codes and levels of a few rows: so few that they stay in the processor's cache."""
        rest = rows.to(torch.float32, copy=columns is not None)
        if columns is not None:
            rest.index_fill_(1, columns, 0.0)
        values = rotate(in_groups(rest))
        sizes = vector_norm(values, dim=-1) / GROUP**0.5
        scales = (sizes.amax(-1) if self.apart else sizes.square().mean(-1).sqrt()).to(torch.bfloat16)
        levels = _levels(sizes, scales.float()) if self.apart else torch.zeros_like(sizes[:, :1])
        steps = self._steps(scales, levels)
        half = 1 << (self.bits - 1)
        inverse = torch.where(steps < TINY, 0.0, 1.0 / steps)
        codes = values.mul_(inverse[..., None]).floor_().add_(half).clamp_(0, 2 * half - 1).to(torch.uint8)
        return scales, pack_bits(codes.flatten(1), self.bits), levels

    def decode(self, parts: Sequence[Tensor], lengths: Sequence[int], width: int) -> Tensor:
        tokens, extra = sum(lengths), parts[2:]
        first, others = self._split(tokens, lengths, parts[0].device)

        def spread(part: Tensor) -> Tensor:
            """With rows of zeros for the first tokens."""
            return part.new_zeros(tokens, *part.shape[1:]).index_copy_(0, others, part)

        scales, packed = spread(parts[0]), spread(parts[1])
        levels = spread(extra[-3]) if self.apart else torch.zeros_like(scales[:, None])
        grouped = torch.empty(tokens, -(-width // GROUP), GROUP, device=packed.device)
        for start in range(0, tokens, CHUNK):
            some = slice(start, start + CHUNK)
            codes = unpack_bits(packed[some], self.bits).float().add_(0.5 - (1 << (self.bits - 1)))
            steps = self._steps(scales[some], levels[some])
            rotate_back(codes.view(grouped[some].shape), out=grouped[some])  # sums of halves: exact
            grouped[some].mul_(steps[..., None])
        rows = grouped.flatten(1)[:, :width]
        if self._columns(width):
            columns, outlier_scales, outliers = extra[:3]
            if int(columns.min()) < 0 or int(columns.max()) >= width:
                raise ValueError("an outlier's column is none")
            rows.index_copy_(1, columns.long(), spread(outliers) * outlier_scales.float())
        if self.apart:
            rows.index_copy_(0, first, FIRST.decode(extra[-2:], [1] * len(lengths), width))
        return rows

    def _steps(self, scales: Tensor, levels: Tensor) -> Tensor:
        """Return the distance of two levels in every group, or in every row: (rows, groups or 1)."""
        sizes = _sizes(levels, scales.float()) if self.apart else scales.float()[:, None]
        return sizes * STEPS[self.bits]

    def _columns(self, width: int) -> int:
        return min(self.outliers, width)

    def _split(self, tokens: int, lengths: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the places of the tokens that go apart, and of the others."""
        counts = torch.tensor(lengths if self.apart else (), device=device, dtype=torch.long)
        first = counts.cumsum(0) - counts
        others = torch.ones(tokens, dtype=torch.bool, device=device).index_fill_(0, first, False)
        return first, others.nonzero().flatten()


def _levels(sizes: Tensor, largest: Tensor) -> Tensor:
    """Return how far below the row's scale each group's is, in steps of 1/16 of a factor of two."""
    below = torch.log2(largest[:, None] / sizes) * OCTAVE
    return torch.where(sizes < TINY, float(ZERO), below.round().clamp(0, ZERO - 1)).to(torch.uint8)


def _sizes(levels: Tensor, largest: Tensor) -> Tensor:
    """Undo `_levels`."""
    return _shares(levels.device)[levels.long()] * largest[:, None]


@lru_cache(maxsize=4)
def _shares(device: torch.device) -> Tensor:
    """Return what each level is of the row's scale; a table, since machines round powers unlike."""
    return torch.tensor([2.0 ** (-level / OCTAVE) for level in range(ZERO)] + [0.0], device=device)
