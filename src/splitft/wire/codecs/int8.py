"""int8: whole numbers of -127 to 127 for groups of 64 values, each with a scale of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from splitft.wire.codecs.codec import Part, check_finite

GROUP = 64
MOST = 127
TINY = 2.0**-126  # the smallest normal number: what is smaller counts as zero


class Int8:
    """Error of a value: at most 1/250 of the largest value of its group (half a step, rounded scale)."""

    def layout(self, lengths: Sequence[int], width: int) -> tuple[Part, ...]:
        tokens, groups = sum(lengths), -(-width // GROUP)
        return (
            Part("values", torch.int8, (tokens, width)),
            Part("scales", torch.bfloat16, (tokens, groups)),
        )

    def encode(self, rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
        grouped = in_groups(rows)
        scales = (grouped.abs().amax(-1) / MOST).to(torch.bfloat16)
        check_finite(scales.float())
        values = rounded(grouped, scales[..., None])
        return values.flatten(1)[:, : rows.shape[1]].contiguous(), scales

    def decode(self, parts: Sequence[Tensor], lengths: Sequence[int], width: int) -> Tensor:
        values, scales = parts
        grouped = in_groups(values).mul_(scales.float()[..., None])
        return grouped.flatten(1)[:, :width]


def rounded(values: Tensor, scales: Tensor) -> Tensor:
    """Return values in units of these scales, as int8."""
    inverse = torch.where(scales.float() < TINY, 0.0, 1.0 / scales.float())
    return (values * inverse).round_().clamp_(-MOST, MOST).to(torch.int8)


def in_groups(rows: Tensor) -> Tensor:
    """Return (tokens, groups, GROUP) float32 of (tokens, width) rows; zeros fill up the last group."""
    tokens, width = rows.shape
    if missing := -width % GROUP:
        rows = functional.pad(rows, (0, missing))
    return rows.float().view(tokens, -(-width // GROUP), GROUP)
