"""Adapters, and models with adapters, that tests of several packages share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel

from splitft.lora.blocks import BlockAdapter, TensorSpec, resize
from splitft.model.slots import AdapterSlots, inject, lora_config, resolve_targets, uses_fan_in_fan_out

SHAPES = {"attn.q": (6, 5), "mlp.up": (5, 9)}  # in, out
BLOCKS = range(5)


def block(rank: int, seed: int, scale: float = 1.0) -> BlockAdapter:
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, (inputs, outputs) in SHAPES.items():
        result[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * scale
        result[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * scale
    return result


def layout() -> dict[int, tuple[TensorSpec, ...]]:
    specs = tuple(TensorSpec(name, tuple(tensor.shape)) for name, tensor in block(4, 0).items())
    return dict.fromkeys(BLOCKS, specs)


def largest_difference(first: BlockAdapter, second: BlockAdapter) -> float:
    assert list(first) == list(second)
    return max(float((first[n] - second[n]).abs().max()) for n in first)


def product(own: BlockAdapter, name: str, rank: int | None = None) -> Tensor:
    own = resize(own, rank) if rank else own
    return own[f"{name}.lora_B.weight"].double() @ own[f"{name}.lora_A.weight"].double()


def equal(first: BlockAdapter, second: BlockAdapter) -> bool:
    return list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)


def adapted(model: nn.Module, requested: str | list[str] | None, r: int = 4) -> tuple[AdapterSlots, Any]:
    targets, excluded = resolve_targets(model, requested)
    fan = uses_fan_in_fan_out(model)
    config = lora_config(targets, excluded, r=r, alpha=8, dropout=0.0, fan_in_fan_out=fan)
    return inject(model, config), config


def tiny_bert() -> BertLMHeadModel:
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
        is_decoder=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return BertLMHeadModel(config).eval()
