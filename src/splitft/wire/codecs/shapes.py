"""A codec's form without its values: what a plan sends has a run's sizes, and takes no time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from splitft.wire.codecs.codec import Codec, Part


class Shapes:
    """Parts as a codec's, with nothing in them; rows of zeros come back."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def layout(self, lengths: Sequence[int], width: int) -> tuple[Part, ...]:
        return self._codec.layout(lengths, width)

    def encode(self, rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
        return tuple(
            torch.empty(part.shape, dtype=part.dtype) for part in self.layout(lengths, rows.shape[1])
        )

    def decode(self, parts: Sequence[Tensor], lengths: Sequence[int], width: int) -> Tensor:
        return torch.zeros(1, 1).expand(sum(lengths), width)
