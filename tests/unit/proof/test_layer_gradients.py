"""A layer whose gradient is lost, or is another's, is found before a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from splitft.proof.quantized import try_gradients
from tiny import MODEL_TYPES, tiny_model


class Changed(nn.Linear):
    """A linear layer with another way to compute."""

    def __init__(self, layer: nn.Linear, compute: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False)
        self.weight, self.compute = layer.weight, compute

    def forward(self, rows: Tensor) -> Tensor:
        return self.compute(self, rows)


def without_gradient(layer: nn.Linear, rows: Tensor) -> Tensor:
    return functional.linear(rows.detach(), layer.weight.detach())


def packed_when_first_used(layer: nn.Linear, rows: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        layer.packed = True
    return functional.linear(rows.detach() if hasattr(layer, "packed") else rows, layer.weight)


def with_half_a_gradient(layer: nn.Linear, rows: Tensor) -> Tensor:
    return functional.linear((rows + rows.detach()) / 2, layer.weight)


def rounded(layer: nn.Linear, rows: Tensor) -> Tensor:
    """Return what 8-bit activations give, whose gradient passes the rounding."""
    scale = rows.abs().amax(-1, keepdim=True) / 127
    return functional.linear(rows + ((rows / scale).round() * scale - rows).detach(), layer.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_plain_layers_pass(model_type: str, dtype: torch.dtype) -> None:
    assert try_gradients(tiny_model(model_type).to(dtype)) == ""


@pytest.mark.parametrize(("compute", "share"), [
    (without_gradient, "0"), (packed_when_first_used, "0"), (with_half_a_gradient, "0.5"), (rounded, None),
])  # fmt: skip
def test_a_lost_gradient_is_found(compute: Callable[[nn.Linear, Tensor], Tensor], share: str | None) -> None:
    model = tiny_model("llama")
    attention = model.model.layers[2].self_attn
    attention.o_proj = Changed(attention.o_proj, compute)
    problem = try_gradients(model)
    expected = f"2.self_attn.o_proj (Changed): its gradient predicts {share} of the change of its output"
    assert problem == ("" if share is None else expected)
