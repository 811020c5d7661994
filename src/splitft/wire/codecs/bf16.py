"""bf16: every value rounded to bfloat16; half of float32, and nothing lost where the model is in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from splitft.wire.codecs.codec import Part, check_finite


class BF16:
    """Relative error of a value: at most 2^-9."""

    def layout(self, lengths: Sequence[int], width: int) -> tuple[Part, ...]:
        return (Part("values", torch.bfloat16, (sum(lengths), width)),)

    def encode(self, rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
        check_finite(rows.float().norm())
        return (rows.to(torch.bfloat16),)

    def decode(self, parts: Sequence[Tensor], lengths: Sequence[int], width: int) -> Tensor:
        return parts[0].float()
