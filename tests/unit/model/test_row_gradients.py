"""Gradients of single rows are those of each row alone, by plain autograd."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases import rest_slow
from reference import TARGETS
from splitft.errors import ModelError
from splitft.lora.blocks import Adapter
from splitft.model.row_gradients import row_gradients
from splitft.model.slots import inject, lora_config, resolve_targets, uses_fan_in_fan_out
from splitft.model.split_model import SplitModel, StepId
from splitft.proof.harness import make_rows, random_adapter
from splitft.proof.row_gradients import prove_row_gradients
from tiny import MODEL_TYPES, tiny_model

CALM = StepId("anna", 1, 0, 0, train=False)


def split_model(model_type: str, **options: Any) -> SplitModel:
    model = tiny_model(model_type)
    targets, excluded = resolve_targets(model, TARGETS[model_type])
    config = lora_config(
        targets, excluded, r=3, alpha=6, dropout=0.0, fan_in_fan_out=uses_fan_in_fan_out(model)
    )
    return SplitModel(model, inject(model, config), **options)


def alone(model: SplitModel, adapter: Adapter, ids: Tensor, mask: Tensor, labels: Tensor) -> list[Tensor]:
    """Each row's gradient, of a batch of this row without padding."""
    trained = [tensor for block in adapter.values() for tensor in block.values()]
    each: list[list[Tensor]] = [[] for _ in trained]
    for row in range(len(ids)):
        length = int(mask[row].sum())
        here = (slice(row, row + 1), slice(0, length))
        model.bind(adapter)
        inputs = {"input_ids": ids[here], "attention_mask": mask[here]}
        loss = model.loss(0, CALM, labels=labels[here], loss_tokens=0, **inputs)
        for kept, own in zip(each, torch.autograd.grad(loss, trained), strict=True):
            kept.append(own)
    return [torch.stack(own) for own in each]


@pytest.mark.parametrize("head", [{}, {"head": "plain", "loss_chunk_tokens": 32}], ids=["logits", "chunks"])
@pytest.mark.parametrize("model_type", rest_slow(MODEL_TYPES, 2))
def test_a_row_in_a_batch_is_the_row_alone(model_type: str, head: dict[str, Any]) -> None:
    if model_type == "gemma3_text" and head:
        head = {}  # its logits are its own code's
    model = split_model(model_type, **head)
    rows = make_rows(model.model, (9, 4, 12, 6)).with_gaps()
    adapter = random_adapter(model.slots.layout, 0, trained=True)
    found = row_gradients(model, adapter, CALM, labels=rows.labels, input_ids=rows.input_ids, **rows.inputs)
    wanted = alone(model, adapter, rows.input_ids, rows.valid.long(), rows.labels)
    for row in range(4):
        own, other = (torch.cat([g[row].flatten() for g in each]) for each in (found.gradients, wanted))
        assert float((own - other).norm() / other.norm()) < 1e-5
    assert found.tokens.tolist() == (rows.labels[:, 1:] >= 0).sum(1).tolist()


def test_in_double_precision_they_are_equal_to_rounding() -> None:
    model = split_model("llama")
    model.model.double()
    rows = make_rows(model.model, (9, 4, 12, 6))
    adapter = {
        block: {name: nn.Parameter(tensor.detach().double()) for name, tensor in tensors.items()}
        for block, tensors in random_adapter(model.slots.layout, 0).items()
    }
    found = row_gradients(
        model, adapter, CALM, labels=rows.labels, input_ids=rows.input_ids, **rows.inputs
    ).gradients
    wanted = alone(model, adapter, rows.input_ids, rows.valid.long(), rows.labels)  # type: ignore[arg-type]
    assert max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True)) < 1e-6


def test_frozen_tensors_have_no_gradients_and_a_row_without_loss_has_zeros() -> None:
    model = split_model("llama")
    rows = make_rows(model.model, (9, 4))
    adapter = random_adapter(model.slots.layout, 0)
    adapter = {
        block: {name: nn.Parameter(t, requires_grad=".lora_B." in name) for name, t in tensors.items()}
        for block, tensors in adapter.items()
    }
    labels = rows.labels.clone()
    labels[1] = -100
    found = row_gradients(model, adapter, CALM, labels=labels, input_ids=rows.input_ids, **rows.inputs)
    assert len(found.gradients) == sum(len(block) for block in adapter.values()) // 2
    assert all(bool(own[0].any()) and not bool(own[1].any()) for own in found.gradients)
    assert found.losses[1] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", rest_slow(MODEL_TYPES, 1))
def test_the_proof_passes_real_models(model_type: str, dtype: torch.dtype) -> None:
    model = split_model(model_type)
    model.model.to(dtype)
    assert prove_row_gradients(model) == ""


class Spoiled(nn.Module):
    """An MLP that does something else beside."""

    def __init__(self, inner: nn.Module, spoil: Any) -> None:
        super().__init__()
        self.inner, self.spoil = inner, spoil

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.spoil(self.inner, hidden)
        return out


def mixing(inner: nn.Module, hidden: Tensor) -> Tensor:
    """As batch normalisation does: a row sees the mean of all."""
    out: Tensor = inner(hidden)
    return out + 0.1 * out.mean(0, keepdim=True)


def transposing(inner: nn.Module, hidden: Tensor) -> Tensor:
    """Tokens first: what a layer takes for rows are positions."""
    out: Tensor = inner(hidden.transpose(0, 1)).transpose(0, 1)
    return out


def writing(inner: nn.Module, hidden: Tensor) -> Tensor:
    """As a hook that meets the wrong layer: base weights change with every forward that trains."""
    if torch.is_grad_enabled():
        with torch.no_grad():
            next(inner.parameters()).mul_(1.001)
    out: Tensor = inner(hidden)
    return out


@pytest.mark.parametrize(("spoil", "problem"), [
    (mixing, "differs by"), (transposing, "size|shape|differs by"),
    (writing, "differs by|something else|written"),
])  # fmt: skip
def test_the_proof_finds_rows_that_are_not_apart(spoil: Any, problem: str) -> None:
    model = split_model("llama")
    layer = model.model.model.layers[1]  # type: ignore[union-attr,index]
    layer.mlp = Spoiled(layer.mlp, spoil)
    found = prove_row_gradients(model)
    assert found and re.search(problem, found), found


def test_adapters_that_are_no_pairs_of_matrices_are_refused() -> None:
    model = tiny_model("llama")
    targets, excluded = resolve_targets(model, ["q_proj"])
    slots = inject(model, lora_config(targets, excluded, r=3, alpha=6, dropout=0.0, use_dora=True))
    split = SplitModel(model, slots)
    rows = make_rows(model, (5, 4))
    adapter = random_adapter(slots.layout, 0, trained=True)
    with pytest.raises((ModelError, ValueError)):
        row_gradients(split, adapter, CALM, labels=rows.labels, input_ids=rows.input_ids, **rows.inputs)
