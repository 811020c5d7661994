"""The defences: noise at the cut with a price on what it tells, a tail of its own, blurred gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

START = 0.1  # of a dimension's own deviation: the noise that an information bottleneck begins with
ALIKE = 0.5  # cosine of both tails' outputs below which a tail is not pushed any further
CLIP = 0.5  # of the median norm of the first rows' gradients: the bound of a row's gradient


@dataclass(frozen=True)
class Defence:
    """What a client does about its answers; the default does nothing.

    Attributes:
        warmup: Local steps through front and tail alone, before the first round.
        information: Price of a nat that the activations of a token tell at most; None: no noise there.
        push: Weight of the likeness of the client's tail and the public one.
        noise: Deviation of what is added to each value of a returned gradient, in units of the bound that a
            row's gradient is clipped to; None: neither noise nor bound.
        returned: Whether a gradient is returned at all; without one trunk and front stay as they are.
    """

    warmup: int = 0
    information: float | None = None
    push: float = 0.0
    noise: float | None = None
    returned: bool = True


def through_bottleneck(
    hidden: Tensor, spread: Tensor, valid: Tensor, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return hidden states with noise, and the most that a token of them tells, in nats, a scalar.

    The bound is that of a Gaussian channel with the batch's own variance in each dimension.

    Args:
        hidden: (batch, seq, hidden).
        spread: (hidden,) deviations of the noise.
        valid: (batch, seq) tokens that the variance is taken of.
    """
    exact = hidden.float()
    noisy = exact + spread * torch.randn(exact.shape, generator=draw)
    nats = 0.5 * torch.log1p(exact[valid].var(0) / spread.pow(2)).sum()
    return noisy.to(hidden.dtype), nats


def likeness(own: Tensor, public: Tensor, valid: Tensor) -> Tensor:
    """Return how far the cosine of two tails' outputs lies above ALIKE, its mean over tokens, a scalar."""
    same = functional.cosine_similarity(own[valid].float(), public[valid].float(), dim=-1)
    return functional.relu(same - ALIKE).mean()


def row_norms(gradient: Tensor) -> Tensor:
    """Return the norm of each row of a (batch, seq, hidden) gradient, (batch,)."""
    return gradient.float().flatten(1).norm(dim=1)


def bound_of(norms: Sequence[float]) -> float:
    """Return the bound of a row's gradient, from norms of the first rows."""
    return CLIP * float(torch.tensor(norms).median())


def noisy_rows(
    gradient: Tensor, valid: Tensor, bound: float, noise: float, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return a gradient of which each row is clipped to a bound and blurred, and each row's factor, (batch,).

    Args:
        gradient: (batch, seq, hidden).
        valid: (batch, seq) tokens that are sent.
        noise: In units of the bound.
    """
    factors = (bound / row_norms(gradient).clamp_min(1e-30)).clamp(max=1.0)
    clipped = gradient.float() * factors[:, None, None]
    blurred = clipped + noise * bound * torch.randn(clipped.shape, generator=draw)
    return torch.where(valid[..., None], blurred, 0.0).to(gradient.dtype), factors
