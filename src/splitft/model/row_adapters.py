"""Adapters that act on their own rows of a batch: those of a client that shares it, or one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from splitft.errors import ModelError
from splitft.lora.blocks import has_rank, of_experts
from splitft.model.slots import AdapterSlots


@dataclass(frozen=True)
class RowPart:
    """One client's part of a batch: how many rows, and the adapters for them, {block: adapter}."""

    rows: int
    adapter: Mapping[int, Mapping[str, Tensor]]


def bind_rows(slots: AdapterSlots, parts: Sequence[RowPart], seq: int) -> None:
    """Make a model compute each part of the rows with its own adapters, until the next bind.

    parts: in the order of the rows, of seq tokens each. A block computes on as many leading parts as have
    joined when it runs; each must have an adapter for it.
    """
    for index, owners in slots.owners.items():
        held = [(part.rows * seq, part.adapter[index]) for part in parts if index in part.adapter]
        for (name_a, lora_a), (name_b, lora_b) in zip(owners[::2], owners[1::2], strict=True):
            if of_experts(name_a):
                raise ModelError("adapters on fused experts change a weight that all rows share")
            pairs = [(tokens, block[name_a], block[name_b]) for tokens, block in held]
            if pairs:
                # Ranks may differ between parts, so that what lies between A and B is no tensor: B does both.
                lora_a.forward = lambda x: x
                lora_b.forward = partial(_by_part, pairs)


def unbind_rows(slots: AdapterSlots) -> None:
    """Make every block compute with the adapters of the last `bind` again."""
    for owners in slots.owners.values():
        for _, owner in owners:
            vars(owner).pop("forward", None)


def _by_part(pairs: Sequence[tuple[int, Tensor, Tensor]], x: Tensor) -> Tensor:
    """Return B(A(x)) with each part's own A and B; x: (rows, seq, width) of the parts that have joined."""
    flat = x.reshape(-1, x.shape[-1])
    ends = list(accumulate(tokens for tokens, _, _ in pairs))
    if flat.shape[0] not in ends:
        raise ValueError(f"a layer with adapters gets {flat.shape[0]} tokens of rows that end at {ends}")
    sizes, a_of, b_of = zip(*pairs[: ends.index(flat.shape[0]) + 1], strict=True)
    if all(size == sizes[0] and a.shape == a_of[0].shape for size, a in zip(sizes, a_of, strict=True)):
        inner = torch.bmm(flat.view(len(sizes), sizes[0], -1), torch.stack(a_of).transpose(1, 2))
        out = torch.bmm(inner, torch.stack(b_of).transpose(1, 2)).flatten(0, 1)
    else:
        own = zip(torch.split(flat, list(sizes)), a_of, b_of, strict=True)
        out = torch.cat([functional.linear(functional.linear(part, a), b) for part, a, b in own])
    return out.reshape(*x.shape[:-1], out.shape[-1])


def bind_each_row(slots: AdapterSlots, adapter: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Make a model compute each row of a batch with its own adapter, until `unbind_rows`.

    adapter: {block: {name: (rows, *shape)}}. Raises ModelError where adapters are no pairs of matrices.
    """
    for index, owners in slots.owners.items():
        own = adapter[index]
        if any(of_experts(name) or not has_rank(name) or own[name].ndim != 3 for name, _ in owners):
            raise ModelError(
                f"adapters of block {index} are no pairs of matrices: rows cannot have their own"
            )
        for (name_a, lora_a), (name_b, lora_b) in zip(owners[::2], owners[1::2], strict=True):
            a, b = own[name_a], own[name_b]
            lora_a.forward = lambda x: x
            lora_b.forward = partial(_by_row, a, b)


def _by_row(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Return B(A(x)) with each row's own A, (rows, rank, in), and B, (rows, out, rank); x: (rows, …, in)."""
    rows = x.reshape(len(a), -1, x.shape[-1])
    out = torch.bmm(torch.bmm(rows, a.transpose(1, 2)), b.transpose(1, 2))
    return out.reshape(*x.shape[:-1], out.shape[-1])
