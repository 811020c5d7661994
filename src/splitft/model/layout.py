"""Batch layouts: padded rows with a mask, or packed (all samples in one row).

The same crosses the cut for both: valid rows, sample after sample, and their lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from splitft.common.transfer import to_device
from splitft.model.head import IGNORE


class BatchLayout(Protocol):
    """A layout of a batch; the valid rows of all samples are (tokens, …)."""

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The model's further inputs: a mask, or positions."""
        ...

    def batch(self, rows: Tensor, fill: float = 0) -> Tensor:
        """Lay rows out for the model: (tokens, …) to (batch, seq, …)."""
        ...

    def rows(self, batch: Tensor) -> Tensor:
        """Undo `batch`."""
        ...

    def labels(self, rows: Tensor) -> Tensor:
        """Lay out the labels, (tokens,), such that no sample's first token counts as another one's next."""
        ...


@dataclass(frozen=True)
class PaddedBatch:
    """A row for each sample, padded on the right. mask: (batch, seq), 0 on padding."""

    mask: Tensor

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {"attention_mask": self.mask}

    def batch(self, rows: Tensor, fill: float = 0) -> Tensor:
        return to_batch(rows, self.mask, fill)

    def rows(self, batch: Tensor) -> Tensor:
        return to_rows(batch, self.mask)

    def labels(self, rows: Tensor) -> Tensor:
        return to_batch(rows, self.mask, fill=IGNORE)


@dataclass(frozen=True)
class PackedBatch:
    """All samples in one row, without padding. position_ids: (1, tokens), from 0 on in each sample.

    Without an attention mask transformers makes one of the positions: a sample sees itself only.
    """

    position_ids: Tensor

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {"position_ids": self.position_ids}

    def batch(self, rows: Tensor, fill: float = 0) -> Tensor:
        return to_device(rows, self.position_ids.device)[None]

    def rows(self, batch: Tensor) -> Tensor:
        return batch[0]

    def labels(self, rows: Tensor) -> Tensor:
        return self.batch(rows).masked_fill(self.position_ids == 0, IGNORE)


def form_of(lengths: Sequence[int], device: torch.device, padding_free: bool) -> BatchLayout:
    """Return the layout of a batch of samples of these lengths."""
    if not padding_free:
        return PaddedBatch(mask_of(lengths, device))
    return PackedBatch(torch.cat([torch.arange(length, device=device) for length in lengths])[None])


def mask_of(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return the (batch, seq) attention mask of right-padded samples of these lengths."""
    positions = torch.arange(max(lengths), device=device)
    return (positions < torch.tensor(lengths, device=device)[:, None]).long()


def to_rows(padded: Tensor, mask: Tensor) -> Tensor:
    """Return the valid rows of (batch, seq, …) one after another: (tokens, …)."""
    if padded.shape[:2].numel() == int(mask.sum()):
        return padded.flatten(0, 1)
    return padded[mask.bool()]


def to_batch(rows: Tensor, mask: Tensor, fill: float = 0) -> Tensor:
    """Undo `to_rows`: (tokens, …) to (batch, seq, …) on the mask's device, padded with `fill`."""
    rows = to_device(rows, mask.device)  # from a network they come on the host
    padded = rows.new_full((*mask.shape, *rows.shape[1:]), fill)
    padded[mask.bool()] = rows
    return padded
