"""Change of basis of a product B·A, so that its leading components are its best approximation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from splitft.lora.blocks import TensorSpec, from_matrices, matrices, names_of_a, pairs

Basis = dict[str, Tensor]  # name of an A -> T (rank, rank) with A' = T·A and B' = B·T⁻¹


def canonical(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return (A', B') with B'·A' = B·A and components in falling order of their singular value.

    a: (rank, in), b: (out, rank). The leading k components are the best rank-k approximation of the product
    (Eckart-Young). The rows of A' are orthogonal, as long as those of A on average, and never vanish: a
    component without weight has a zero column in B', like a new adapter, and can still be trained. (With a
    rank above `in` the rows that are too many repeat the first ones.) Where the product is zero, as in a new
    adapter, or values are not finite, of a run that diverged, both are returned as they are. Computed in
    float64 on the CPU.
    """
    rank = a.shape[0]
    wide_a, wide_b = a.detach().cpu().double(), b.detach().cpu().double()
    scale = wide_a.norm() / rank**0.5
    weight = scale * wide_b.norm()
    if weight == 0 or not weight.isfinite():
        return a.clone(), b.clone()
    q_a, r_a = torch.linalg.qr(wide_a.T)
    q_b, r_b = torch.linalg.qr(wide_b)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T)
    rows = scale * vh @ q_a.T
    new_a = rows[torch.arange(rank) % len(rows)]
    new_b = torch.zeros_like(wide_b)
    new_b[:, : len(s)] = (q_b @ u)[:, : len(s)] * (s / scale)
    return new_a.to(a), new_b.to(b)


def canonical_block(block: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Apply `canonical` to every pair of matrices of a block's adapter."""
    result = matrices(block)
    for name_a, name_b in pairs(result):
        result[name_a], result[name_b] = canonical(result[name_a], result[name_b])
    return from_matrices(result, block)


def basis_between(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Basis:
    """Return T of every pair of matrices, A' = T·A, float32 on the CPU.

    By least squares, exact where the row spaces agree. Gradients follow as A: T⁻ᵀ·g and B: g·Tᵀ; see
    moments.rebase.
    """
    basis: Basis = {}
    old, new = matrices(old), matrices(new)
    for name, _ in pairs(old):
        before, after = (block[name].detach().cpu().double() for block in (old, new))
        usable = bool((before.norm() + after.norm()).isfinite())
        change = after @ torch.linalg.pinv(before) if usable else torch.eye(len(before))
        basis[name] = change.float()
    return basis


def truncation_error(block: Mapping[str, Tensor], rank: int) -> float:
    """Return the relative Frobenius error of cutting every pair of a block in canonical form to `rank`."""
    lost = kept = 0.0
    apart = matrices(block)
    for name_a, name_b in pairs(apart):
        weight = (apart[name_a].double().norm(dim=1) * apart[name_b].double().norm(dim=0)) ** 2
        lost += float(weight[rank:].sum())
        kept += float(weight.sum())
    return (lost / kept) ** 0.5 if kept else 0.0


def stack_bases(changes: Mapping[int, Sequence[Basis]]) -> tuple[tuple[int, ...], tuple[Tensor, ...]]:
    """Return (block of each change of basis, the changes as (pairs, rank, rank) each), as messages have them.

    changes: {block: changes of its basis, oldest first}.
    """
    each = [(block, basis) for block, bases in changes.items() for basis in bases]
    return tuple(block for block, _ in each), tuple(torch.stack(list(basis.values())) for _, basis in each)


def unstack_bases(
    blocks: Sequence[int], stacked: Sequence[Tensor], layout: Mapping[int, Sequence[TensorSpec]]
) -> dict[int, list[Basis]]:
    """Undo `stack_bases`, for blocks of this layout. Raises ValueError where the tensors do not fit it."""
    changes: dict[int, list[Basis]] = defaultdict(list)
    for block, bases in zip(blocks, stacked, strict=True):
        names = names_of_a(layout.get(block, ()))
        if bases.ndim != 3 or len(bases) != len(names) or bases.shape[1] != bases.shape[2]:
            raise ValueError(f"a change of basis of shape {tuple(bases.shape)} for {len(names)} pairs")
        changes[block].append(dict(zip(names, bases, strict=True)))
    return changes
