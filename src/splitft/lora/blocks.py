"""LoRA adapters of single blocks as plain tensors: names, shapes, ranks, and all operations on them.

A module's A is (rank, in) and its B (out, rank). Adapters on the fused weights of several experts are
(experts, rank, in) and (out, rank, experts), so that one rank counts for every expert.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from splitft.common.seeds import torch_generator

BlockAdapter = dict[str, Tensor]  # "self_attn.q_proj.lora_A.weight" -> tensor, in the model's order
Adapter = dict[int, BlockAdapter]  # block index -> its adapter
MAGNITUDE = ".lora_magnitude_vector"  # what the name of DoRA's third tensor ends in, as PEFT files have it


_EXPERTS = ".experts"  # in place of peft's .weight


def tensor_name(module: str, side: str, experts: int = 1) -> str:
    """Return the name of a module's LoRA tensor. side: A or B."""
    return f"{module}.lora_{side}{_EXPERTS if experts > 1 else '.weight'}"


def of_experts(name: str) -> bool:
    """Whether a LoRA tensor holds the matrices of several experts."""
    return name.endswith(_EXPERTS)


def module_of(name: str) -> str:
    """Return the module that a LoRA tensor adapts."""
    return name.partition(".lora_")[0]


def is_a(name: str) -> bool:
    """Whether a LoRA tensor is the A of its pair."""
    return ".lora_A." in name


def name_of_a(name: str) -> str:
    """Return the name of the A in the same pair."""
    return name.replace(".lora_B.", ".lora_A.") if has_rank(name) else tensor_name(module_of(name), "A")


def has_rank(name: str) -> bool:
    """Whether a LoRA tensor has components: A and B do, the magnitudes of DoRA do not."""
    return not name.endswith(MAGNITUDE)


def rank_axis(name: str) -> int:
    """Return the axis of a LoRA tensor along which its components lie: 0 of A, 1 of B and of experts."""
    return 0 if is_a(name) and not of_experts(name) else 1


@dataclass(frozen=True)
class TensorSpec:
    """One LoRA tensor of a block: its name and its shape at full rank."""

    name: str
    shape: tuple[int, ...]

    def at_rank(self, rank: int) -> tuple[int, ...]:
        if not has_rank(self.name):
            return self.shape
        return tuple(rank if axis == rank_axis(self.name) else n for axis, n in enumerate(self.shape))


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
            if is_a(spec.name):
                bound = 1 / math.sqrt(math.prod(spec.shape[rank_axis(spec.name) + 1 :]))
                tensor.uniform_(-bound, bound, generator=torch_generator(seed, "adapter", block, spec.name))
            adapter[block][spec.name] = tensor
    return adapter


def rank_of(block: Mapping[str, Tensor]) -> int:
    """Return the rank that a block's tensors have."""
    name, tensor = next((name, tensor) for name, tensor in block.items() if has_rank(name))
    return tensor.shape[rank_axis(name)]


def resize(block: Mapping[str, Tensor], rank: int) -> BlockAdapter:
    """Return the block with its leading `rank` components, or widened by zero columns and rows."""
    resized: BlockAdapter = {}
    for name, tensor in block.items():
        if not has_rank(name):
            resized[name] = tensor
            continue
        axis = rank_axis(name)
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
        if is_a(name):
            new = (rank_axis(name), have, rank - have)
            tensor.narrow(*new).copy_(fresh[name].narrow(*new))
    return widened


def to_device(adapter: Mapping[int, Mapping[str, Tensor]], device: torch.device) -> Adapter:
    """Return the adapter on a device."""
    return {b: {n: t.to(device) for n, t in tensors.items()} for b, tensors in adapter.items()}


def device_of(adapter: Mapping[int, Mapping[str, Tensor]]) -> torch.device:
    """Return the device of an adapter; the CPU where it has no tensors."""
    return next((t.device for block in adapter.values() for t in block.values()), torch.device("cpu"))


def flatten(block: Mapping[str, Tensor]) -> Tensor:
    """Return all values of a block's adapter as one float32 vector, in the model's order."""
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in block.values()])


def unflatten(values: Tensor, specs: Iterable[TensorSpec]) -> BlockAdapter:
    """Undo `flatten` for a block of this layout; the rank follows from the number of values.

    Raises ValueError where that is no whole rank up to the layout's.
    """
    specs = tuple(specs)
    unit = sum(math.prod(spec.at_rank(1)) for spec in specs if has_rank(spec.name))
    fixed = sum(math.prod(spec.shape) for spec in specs if not has_rank(spec.name))
    rank, rest = divmod(values.numel() - fixed, unit)
    if values.ndim != 1 or rest or not 1 <= rank <= specs[0].shape[rank_axis(specs[0].name)]:
        raise ValueError(f"{values.numel()} adapter values do not make a whole rank of {unit} values")
    shapes = {spec.name: spec.at_rank(rank) for spec in specs}
    parts = torch.split(values, [math.prod(shape) for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def matrices(block: Mapping[str, Tensor]) -> BlockAdapter:
    """Return a block's adapter with the matrices of each expert apart: A and B are all matrices."""
    apart: BlockAdapter = {}
    for name, tensor in block.items():
        if of_experts(name):
            apart |= {f"{name}.{i}": one for i, one in enumerate(tensor.unbind(0 if is_a(name) else 2))}
        else:
            apart[name] = tensor.flatten(1) if has_rank(name) else tensor
    return apart


def from_matrices(apart: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> BlockAdapter:
    """Undo `matrices`, for a block with the names and the shapes, up to the rank, of `like`."""
    block: BlockAdapter = {}
    for name, tensor in like.items():
        if of_experts(name):
            axis = 0 if is_a(name) else 2
            block[name] = torch.stack([apart[f"{name}.{i}"] for i in range(tensor.shape[axis])], dim=axis)
        elif not has_rank(name):
            block[name] = apart[name]
        else:
            shape = [-1 if axis == rank_axis(name) else n for axis, n in enumerate(tensor.shape)]
            block[name] = apart[name].reshape(shape)
    return block


def names_of_a(specs: Iterable[TensorSpec]) -> list[str]:
    """Return the names of the A matrices of a block of this layout, as `matrices` gives them."""
    names: list[str] = []
    for spec in specs:
        if is_a(spec.name):
            several = of_experts(spec.name)
            names += [f"{spec.name}.{i}" for i in range(spec.shape[0])] if several else [spec.name]
    return names


def concat(parts: Sequence[BlockAdapter]) -> BlockAdapter:
    """Return a block of all components of the parts, in their order; magnitudes are the first part's."""
    return {
        name: torch.cat([part[name] for part in parts], dim=rank_axis(name)) if has_rank(name) else tensor
        for name, tensor in parts[0].items()
    }


def slice_components(block: BlockAdapter, low: int, high: int) -> BlockAdapter:
    """Return the components [low, high) of a block, with its magnitudes."""
    return {
        name: t.narrow(rank_axis(name), low, high - low).contiguous() if has_rank(name) else t
        for name, t in block.items()
    }


def merge_components(
    blocks: Sequence[BlockAdapter], merge: Callable[[Sequence[int], Sequence[BlockAdapter]], BlockAdapter]
) -> BlockAdapter:
    """Return a block whose components are merged each over its holders: the adapters of high enough rank.

    Magnitudes go with the first components, which all hold.

    Args:
        blocks: Adapters of one block, of any ranks.
        merge: Function of the holders' places in `blocks`, and of their slices of the components in question.
    """
    ranks = [rank_of(block) for block in blocks]
    parts = []
    for low, high in pairwise([0, *sorted(set(ranks))]):
        holders = [place for place, rank in enumerate(ranks) if rank >= high]
        parts.append(merge(holders, [slice_components(blocks[place], low, high) for place in holders]))
    return concat(parts)


def pairs(block: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield the names of A and B of every pair of a block's adapter."""
    for name in block:
        if is_a(name):
            yield name, name.replace(".lora_A.", ".lora_B.")


def trained_specs(specs: Sequence[TensorSpec], freeze_a: bool) -> tuple[TensorSpec, ...]:
    """Return the layout of the tensors that are trained: all, or B alone."""
    return tuple(spec for spec in specs if not (freeze_a and is_a(spec.name)))


def trained_tensors(block: Mapping[str, Tensor], freeze_a: bool) -> BlockAdapter:
    """Return the tensors of a block that are trained: all, or B alone."""
    return {name: t for name, t in block.items() if not (freeze_a and is_a(name))}


def tensors_of(adapter: Adapter, layout: Layout) -> tuple[Tensor, ...]:
    """Return all tensors of an adapter, block after block in the layout's order."""
    return tuple(block[spec.name] for index, block in adapter.items() for spec in layout[index])


def adapter_of(blocks: Sequence[int], tensors: Sequence[Tensor], layout: Layout) -> Adapter:
    """Undo `tensors_of`. Raises ValueError where there are more or fewer tensors than these blocks have."""
    names = [(block, spec.name) for block in blocks for spec in layout[block]]
    adapter: Adapter = {block: {} for block in blocks}
    for (block, name), tensor in zip(names, tensors, strict=True):
        adapter[block][name] = tensor
    return adapter


def unchanged(before: Adapter, after: Adapter) -> bool:
    """Whether training left an adapter as it was, but for the rounding of averages.

    A pair whose B was zero and still is does not count by its A: its product is zero.
    """
    return before.keys() == after.keys() and all(
        all(_same(name, block, after[number]) for name in block) for number, block in before.items()
    )


def _same(name: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    if is_a(name):
        b = name.replace(".lora_A.", ".lora_B.")
        if not bool(before[b].any()) and not bool(after[b].any()):
            return True
    old, new = before[name], after[name].to(before[name].device)
    if old.shape != new.shape:  # a rank that a cut changed
        return not bool(old.any()) and not bool(new.any())
    return float(torch.linalg.vector_norm(new - old)) <= 1e-6 * float(torch.linalg.vector_norm(old))
