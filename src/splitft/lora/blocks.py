"""LoRA adapters per block: where they sit in a model, how they start, and how they travel.

peft injects the modules once; each party then binds its own tensors to them, so that any number of clients
and the server share one frozen base. A block's scaling is lora_alpha / lora_r whatever its effective rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitft.common.seeds import torch_generator

BlockAdapter = dict[str, Tensor]  # "self_attn.q_proj.lora_A.weight" -> tensor, in the model's order
Adapter = dict[int, BlockAdapter]  # block index -> its adapter


@dataclass(frozen=True)
class TensorSpec:
    """One LoRA tensor of a block: its name and its shape at full rank. Rank is axis 0 of A, axis 1 of B."""

    name: str
    shape: tuple[int, ...]

    @property
    def rank_axis(self) -> int:
        return 0 if ".lora_A." in self.name else 1

    def at_rank(self, rank: int) -> tuple[int, ...]:
        return tuple(rank if axis == self.rank_axis else n for axis, n in enumerate(self.shape))


Layout = dict[int, tuple[TensorSpec, ...]]


def initial_adapter(layout: Layout, rank: int, seed: int) -> Adapter:
    """Return a new adapter: A uniform in ±1/sqrt(inputs) as peft's default, B zero; float32.

    Each tensor comes from its own generator, so that it does not depend on who holds which block.
    """
    adapter: Adapter = {}
    for block, specs in layout.items():
        adapter[block] = {}
        for spec in specs:
            tensor = torch.zeros(spec.at_rank(rank))
            if spec.rank_axis == 0:
                bound = 1 / math.sqrt(math.prod(spec.shape[1:]))
                tensor.uniform_(-bound, bound, generator=torch_generator(seed, "adapter", block, spec.name))
            adapter[block][spec.name] = tensor
    return adapter


def narrow_a(block: Mapping[str, Tensor]) -> BlockAdapter:
    """Return a block with each A cut to the components that its B has."""
    return {
        name: t[: block[name.replace(".lora_A.", ".lora_B.")].shape[1]] if ".lora_A." in name else t
        for name, t in block.items()
    }


def rank_of(block: Mapping[str, Tensor]) -> int:
    """Return the rank that a block's tensors have."""
    name, tensor = next(iter(block.items()))
    return tensor.shape[0 if ".lora_A." in name else 1]


def resize(block: Mapping[str, Tensor], rank: int) -> BlockAdapter:
    """Return the block with its leading `rank` components, or widened by zero columns and rows."""
    resized: BlockAdapter = {}
    for name, tensor in block.items():
        axis = 0 if ".lora_A." in name else 1
        have = tensor.shape[axis]
        if rank <= have:
            resized[name] = tensor.narrow(axis, 0, rank).contiguous()
        else:
            shape = [rank - have if i == axis else n for i, n in enumerate(tensor.shape)]
            resized[name] = torch.cat([tensor, tensor.new_zeros(shape)], dim=axis)
    return resized


def widen(
    block: Mapping[str, Tensor], rank: int, specs: Iterable[TensorSpec], seed: int, index: int
) -> BlockAdapter:
    """Return the block with new components up to `rank`: rows of A as in a new adapter, columns of B zero.

    The function stays exactly what it was, and the new components can be trained.
    """
    have = rank_of(block)
    fresh = initial_adapter({index: tuple(specs)}, rank, seed)[index]
    widened = resize(block, rank)
    for name, tensor in widened.items():
        if ".lora_A." in name:
            tensor[have:] = fresh[name][have:].to(tensor)
    return widened


def to_device(adapter: Mapping[int, Mapping[str, Tensor]], device: torch.device) -> Adapter:
    """Return the adapter on a device."""
    return {b: {n: t.to(device) for n, t in tensors.items()} for b, tensors in adapter.items()}


def flatten(block: Mapping[str, Tensor]) -> Tensor:
    """Return all values of a block's adapter as one float32 vector, in the model's order."""
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in block.values()])


def unflatten(values: Tensor, specs: Iterable[TensorSpec]) -> BlockAdapter:
    """Undo `flatten` for a block of this layout; the rank follows from the number of values.

    Raises ValueError where that is no whole rank up to the layout's.
    """
    specs = tuple(specs)
    unit = sum(math.prod(spec.at_rank(1)) for spec in specs)
    rank, rest = divmod(values.numel(), unit)
    if values.ndim != 1 or rest or not 1 <= rank <= specs[0].shape[specs[0].rank_axis]:
        raise ValueError(f"{values.numel()} adapter values do not make a whole rank of {unit} values")
    shapes = {spec.name: spec.at_rank(rank) for spec in specs}
    parts = torch.split(values, [math.prod(shape) for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def concat(parts: Sequence[BlockAdapter]) -> BlockAdapter:
    """Return a block of all components of the parts, in their order."""
    return {
        name: torch.cat([part[name] for part in parts], dim=0 if ".lora_A." in name else 1)
        for name in parts[0]
    }


def slice_components(block: BlockAdapter, low: int, high: int) -> BlockAdapter:
    """Return the components [low, high) of a block."""
    return {
        name: tensor.narrow(0 if ".lora_A." in name else 1, low, high - low).contiguous()
        for name, tensor in block.items()
    }


def pairs(block: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield the names of A and B of every pair of a block's adapter."""
    for name in block:
        if ".lora_A." in name:
            yield name, name.replace(".lora_A.", ".lora_B.")


def trained_specs(specs: Sequence[TensorSpec], freeze_a: bool) -> tuple[TensorSpec, ...]:
    """Return the layout of the tensors that are trained: all, or B alone."""
    return tuple(spec for spec in specs if not freeze_a or spec.rank_axis == 1)


def trained_tensors(block: Mapping[str, Tensor], freeze_a: bool) -> BlockAdapter:
    """Return the tensors of a block that are trained: all, or B alone."""
    return {name: t for name, t in block.items() if not freeze_a or ".lora_B." in name}
