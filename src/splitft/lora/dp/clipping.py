"""Clipping of the gradients of single rows, and the noise on their sum; pure functions.

Source: Abadi et al., "Deep Learning with Differential Privacy" (CCS 2016), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def row_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of each row's whole gradient, (rows,) float64.

    gradients: one (rows, …) tensor for each trained tensor.
    """
    each = [torch.linalg.vector_norm(own.flatten(1), dim=1, dtype=torch.float64) for own in gradients]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(each), dim=0)
    return norms


def clipped_sum(gradients: Sequence[Tensor], max_grad_norm: float) -> list[Tensor]:
    """Return the sum over the rows of their gradients, each scaled to a norm of max_grad_norm at most.

    A row whose gradient is not finite counts as zero, so that no row adds more than its bound. gradients: as
    of `row_norms`; the result has no axis of rows.
    """
    norms = row_norms(gradients)
    factors = (max_grad_norm / norms).clamp(max=1.0)  # without a gradient: 1
    finite = torch.isfinite(norms)
    if not bool(finite.all()):
        factors = torch.where(finite, factors, 0.0)
        gradients = [torch.where(finite.view(-1, *[1] * (own.ndim - 1)), own, 0.0) for own in gradients]
    return [torch.einsum("r,r...->...", factors.to(own.dtype), own) for own in gradients]


def add_noise(sums: Sequence[Tensor], deviation: float, random: np.random.Generator) -> list[Tensor]:
    """Return the sums with Gaussian noise of this standard deviation on every value.

    The noise is drawn tensor after tensor, in float32.
    """
    return [
        own + torch.from_numpy(random.standard_normal(tuple(own.shape), dtype=np.float32)).to(own) * deviation
        for own in sums
    ]
