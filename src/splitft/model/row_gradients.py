"""Gradients of single rows: every row of a batch computes with its own copy of the adapter.

One backward then gives each row's gradient exactly, as if the row were alone: no rule for a kind of layer is
needed, and nothing of a row gets into another one's copy. `proof.row_gradients` compares both on the model
itself before a run relies on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splitft.model.head import IGNORE
from splitft.model.row_adapters import bind_each_row, unbind_rows
from splitft.model.split_model import SplitModel, StepId


@dataclass(frozen=True)
class RowGradients:
    """Losses and gradients of the rows of one batch.

    losses: (rows,) float32, each the mean over the row's own tokens with loss. tokens: their number, (rows,).
    gradients: of each trained tensor, block after block in the model's order, (rows, *shape).
    """

    losses: Tensor
    tokens: Tensor
    gradients: list[Tensor]


def row_gradients(
    model: SplitModel,
    adapter: Mapping[int, Mapping[str, Tensor]],
    place: StepId,
    *,
    labels: Tensor,
    **inputs: Any,
) -> RowGradients:
    """Return the gradient of each row's own mean loss, for every tensor of the adapter that requires one.

    adapter: whole, {block: {name: tensor}}; bound to the model afterwards. labels: (rows, seq), padded on the
    right, with the model's further inputs. Raises ModelError where adapters are no pairs of matrices.
    """
    # Every row's own tensors: views of the trained ones, which gather a gradient for each row.
    rows = labels.shape[0]
    model.bind(adapter)
    copies = {
        block: {
            name: tensor.detach().expand(rows, *tensor.shape).requires_grad_(tensor.requires_grad)
            for name, tensor in tensors.items()
        }
        for block, tensors in adapter.items()
    }
    wanted = [own for tensors in copies.values() for own in tensors.values() if own.requires_grad]

    # One forward, and one backward of the sum of all rows' losses.
    tokens = (labels[:, 1:] != IGNORE).sum(1)
    bind_each_row(model.slots, copies)
    try:
        with torch.enable_grad():
            losses = model.losses(
                lambda: model.run(0, model.num_blocks, place, **inputs),
                labels,
                [1] * rows,
                tokens.clamp(min=1).tolist(),
            )
            found: Sequence[Tensor | None] = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
    finally:
        unbind_rows(model.slots)
    gradients = [
        torch.zeros(own.shape, device=own.device) if slope is None else slope
        for own, slope in zip(wanted, found, strict=True)
    ]
    return RowGradients(losses.detach(), tokens, gradients)
