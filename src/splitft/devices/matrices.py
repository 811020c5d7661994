"""The matrices of a block: what its matrix products are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from splitft.model.config import text_config

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Matrix:
    """A weight of the frozen base. share: the part of it that one token meets (experts: top-k of all)."""

    owner: str  # path of the module in its block, as an adapter's tensors name it
    module: nn.Module
    shape: tuple[int, ...]
    share: float

    @property
    def parameters(self) -> float:
        return math.prod(self.shape) * self.share

    @property
    def features(self) -> float:
        """Inputs and outputs per token."""
        experts = self.shape[0] if len(self.shape) > 2 else 1
        return sum(self.shape[-2:]) * experts * self.share


def matrices_of(block: nn.Module, config: Any) -> list[Matrix]:
    """Return the weights of two or more axes in a block, without adapters and embedding tables.

    Where the configuration states experts and how many of them a token is sent to, an expert's weight counts
    with that share.
    """
    experts, chosen = expert_counts(config)
    found = []
    for path, module in block.named_modules():
        if ".lora_" in f".{path}" or isinstance(module, nn.Embedding):
            continue
        for weight in module.parameters(recurse=False):
            if weight.ndim < 2:
                continue
            shape = tuple(weight.shape)
            of_expert = ".experts." in f".{path}." and (len(shape) == 2 or shape[0] == experts)
            share = chosen / experts if of_expert and experts > 1 else 1.0
            found.append(Matrix(path.replace(".base_layer", ""), module, shape, share))
    return found


def expert_counts(config: Any) -> tuple[int, int]:
    """Return (experts of a block, experts that a token is sent to); (1, 1) where there are none."""
    text = text_config(config)
    experts = next((n for key in _EXPERTS if isinstance(n := getattr(text, key, None), int)), 1)
    chosen = getattr(text, "num_experts_per_tok", None)
    return (experts, min(chosen, experts)) if isinstance(chosen, int) and experts > 1 else (1, 1)


def attention_modules(block: nn.Module) -> list[str]:
    """Return the paths of a block's attention modules (transformers names their classes so)."""
    return [path for path, module in block.named_modules() if "attention" in type(module).__name__.lower()]


def attention_width(config: Any) -> int:
    """Return heads × head_dim; where keys and values differ in size, with their mean."""
    text = text_config(config)
    heads = getattr(text, "num_attention_heads", None)
    if not isinstance(heads, int):
        return 0
    keys, values = getattr(text, "qk_head_dim", None), getattr(text, "v_head_dim", None)
    if isinstance(keys, int) and isinstance(values, int):
        return heads * (keys + values) // 2
    size = getattr(text, "head_dim", None)
    return heads * size if isinstance(size, int) else int(text.hidden_size)
