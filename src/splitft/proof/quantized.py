"""Prove that gradients pass the layers of a quantised base: some packages drop them without a word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from splitft.common.text import error_line
from splitft.model.window import find_blocks

_ROWS = 4
_CLOSE = 0.1  # of the change itself; values that are rounded on their way in stay below


def try_gradients(model: Any) -> str:
    """Return the problem of a layer whose gradient is not that of its output; empty where there is none.

    One linear layer of each class and shape in the blocks is tried: the change of its output between two
    inputs must be the one that its gradient predicts.
    """
    for name, layer in _kinds_of_layers(model):
        where = f"{name} ({type(layer).__name__})"
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(2, _ROWS, int(layer.in_features), generator=generator)
        near, far = rows.to(model.device, model.dtype)
        try:
            share = _share_predicted(layer, near, far)
        except Exception as error:  # a package may raise anything
            return f"{where}: {error_line(error)}"
        if abs(share - 1) > _CLOSE:
            return f"{where}: its gradient predicts {share:.2g} of the change of its output"
    return ""


def _kinds_of_layers(model: Any) -> Iterator[tuple[str, Any]]:
    seen = set()
    for name, layer in find_blocks(model)[2].named_modules():
        sizes = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
        kind = type(layer), *sizes
        if None not in sizes and kind not in seen:
            seen.add(kind)
            yield name, layer


def _share_predicted(layer: nn.Module, near: Tensor, far: Tensor) -> float:
    """Return the share of the output's change from `near` to `far` that the gradient accounts for."""
    with torch.no_grad():
        layer(near)  # packages pack weights in the first forward without gradients
        change = (layer(far) - layer(near)).float()
    near = near.detach().requires_grad_()
    output: Tensor = layer(near)
    if not output.requires_grad:
        return 0.0
    (gradient,) = torch.autograd.grad(output, near, change.to(output.dtype), allow_unused=True)
    predicted = 0.0 if gradient is None else float(((far - near).detach() * gradient).float().sum())
    return predicted / float(change.square().sum())
