"""Change of basis of a product B·A, so that its leading components are its best approximation. (ours)"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def canonical(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return (A', B') with B'·A' = B·A and components in falling order of their singular value.

    a: (rank, in), b: (out, rank). The leading k components are the best rank-k approximation of the product
    (Eckart-Young). The rows of A' are orthogonal, as long as those of A on average, and never vanish: a
    component without weight has a zero column in B', like a new adapter, and can still be trained. (With a
    rank above `in` the rows that are too many repeat the first ones.) Values that are not finite, of a run
    that diverged, are returned as they are. Computed in float64 on the CPU.
    """
    rank = a.shape[0]
    wide_a, wide_b = a.detach().cpu().double(), b.detach().cpu().double()
    scale = wide_a.norm() / rank**0.5
    if scale == 0 or not (scale + wide_b.norm()).isfinite():
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
    """Apply `canonical` to every pair of a block's adapter, convolutions flattened."""
    result: dict[str, Tensor] = {}
    for name, a in block.items():
        if ".lora_A." not in name:
            continue
        partner = name.replace(".lora_A.", ".lora_B.")
        b = block[partner]
        new_a, new_b = canonical(a.flatten(1), b.flatten(1))
        result[name], result[partner] = new_a.reshape(a.shape), new_b.reshape(b.shape)
    return result


def truncation_error(block: Mapping[str, Tensor], rank: int) -> float:
    """Return the relative Frobenius error of cutting every pair of a block in canonical form to `rank`."""
    lost = kept = 0.0
    for name, a in block.items():
        if ".lora_A." not in name:
            continue
        weight = (
            a.double().flatten(1).norm(dim=1)
            * block[name.replace(".lora_A.", ".lora_B.")].double().norm(dim=0).flatten()
        ) ** 2
        lost += float(weight[rank:].sum())
        kept += float(weight.sum())
    return (lost / kept) ** 0.5 if kept else 0.0
