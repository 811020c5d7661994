"""New adapters: peft's starts of A and B that need no base weights, from a generator for each tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from splitft.common.seeds import torch_generator
from splitft.lora.blocks import Adapter, Layout, initial_adapter, pairs


def new_adapter(layout: Layout, rank: int, seed: int, init: bool | str = True) -> Adapter:
    """Return a new adapter, float32. init: as peft's init_lora_weights; see `LoraSettings`.

    A start that takes a part out of the base weights is made with them (`model.moved_base`): here, as for
    shapes alone, it is the default.
    """
    adapter = initial_adapter(layout, rank, seed)
    for block, tensors in adapter.items():
        for name_a, name_b in pairs(tensors):
            a, b = tensors[name_a], tensors[name_b]
            if init == "gaussian":
                a.normal_(0, 1 / rank, generator=torch_generator(seed, "gaussian", block, name_a))
            elif init == "orthogonal":
                tensors[name_a], tensors[name_b] = _orthogonal(a, b, seed, block, name_a)
            elif init is False:
                bound = 1 / math.sqrt(math.prod(b.shape[1:]))
                b.uniform_(-bound, bound, generator=torch_generator(seed, "adapter", block, name_b))
    return adapter


def _orthogonal(a: Tensor, b: Tensor, seed: int, block: int, name: str) -> tuple[Tensor, Tensor]:
    """Return A and B whose product is zero, from the two halves of an orthogonal matrix (as peft)."""
    generator, rank = torch_generator(seed, "orthogonal", block, name), a.shape[0]
    q, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator))
    of_a = torch.randn(a[0].numel(), rank // 2, generator=generator) @ q[0::2]
    of_b = torch.randn(len(b), rank // 2, generator=generator) @ q[1::2]
    return (of_a.T / 10).reshape(a.shape).contiguous(), (of_b / 10).reshape(b.shape).contiguous()
