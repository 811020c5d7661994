"""The accountant: (ε, δ) of Poisson-sampled Gaussian noise by Rényi differential privacy; pure functions.

One step draws every row with probability `sample_rate`, sums gradients of norm 1 at most, and adds Gaussian
noise of standard deviation `noise_multiplier`. Neighbouring data: one row more, or one less.

Sources: Mironov, Talwar and Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism" (2019), §3:
the divergence is an integral over one dimension, computed here by the trapezoid rule, which converges
exponentially on it. Composition: Mironov (CSF 2017), proposition 1. Conversion to (ε, δ): Canonne, Kamath and
Steinke, "The Discrete Gaussian for Differential Privacy" (NeurIPS 2020), proposition 12.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

# Orders α of the divergence: every one gives a bound, and the least counts.
ORDERS: tuple[float, ...] = tuple(float(1 + 10**power) for power in np.linspace(-1.0, 2.75, 150))
DIGITS = 4  # of a noise multiplier behind the point: rounded up, so that machines agree on it
_LEAST, _MOST = 0.05, 1e5  # noise multipliers between which one is searched for
_TAIL = 12.0  # standard deviations beyond the outermost peak: what lies farther out is below 1e-31
# Points for each standard deviation; and of the distance πσ² of the integrand's branch points from the real
# axis, from which the error of the trapezoid rule is exp(-2π · πσ² / step).
_POINTS, _PART = 4.0, 3.0


@cache
def rdp_of_step(sample_rate: float, noise_multiplier: float) -> tuple[float, ...]:
    """Return the Rényi divergence of one step at each of ORDERS."""
    return tuple(renyi_divergence(sample_rate, noise_multiplier, order) for order in ORDERS)


def renyi_divergence(q: float, sigma: float, order: float) -> float:
    """Return the Rényi divergence of one step.

    It is log(A) / (order - 1), where A is the mean under N(0, σ²) of the likelihood ratio to the order.

    The ratio at z is 1 - q + q · exp((2z - 1) / 2σ²). A is the larger one of the two directions (§3.1).
    """
    if q == 1:
        return order / (2 * sigma**2)  # the plain Gaussian mechanism, in closed form
    step = min(sigma / _POINTS, sigma**2 / _PART)
    z = np.arange(-_TAIL * sigma, order + _TAIL * sigma + step, step)
    ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * z - 1) / (2 * sigma**2))
    terms = order * ratio - z**2 / (2 * sigma**2)
    highest = float(terms.max())
    log_a = (
        highest
        + math.log(float(np.exp(terms - highest).sum()) * step)
        - math.log(sigma * math.sqrt(2 * math.pi))
    )
    return max(0.0, log_a) / (order - 1)


@cache
def epsilon_of(sample_rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """Return the ε at this δ of so many steps; 0 of none.

    sample_rate: probability of a row, in (0, 1]. noise_multiplier: in units of the bound of a gradient.
    """
    if not steps:
        return 0.0
    orders: NDArray[np.float64] = np.asarray(ORDERS)
    total = steps * np.asarray(rdp_of_step(sample_rate, noise_multiplier))
    each = total + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(each.min()))


@cache
def noise_multiplier_for(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Return the least noise multiplier, of DIGITS digits, whose ε at this δ is `epsilon` at most.

    Raises ValueError where no noise is enough.
    """
    unit = 10.0**-DIGITS
    low, high = math.ceil(_LEAST / unit), math.ceil(_MOST / unit)

    def fits(number: int) -> bool:
        return epsilon_of(sample_rate, round(number * unit, DIGITS), steps, delta) <= epsilon

    if fits(low):
        return round(low * unit, DIGITS)
    if not fits(high):
        raise ValueError(f"no noise gives epsilon {epsilon:g} at delta {delta:g} in {steps} steps")
    while high - low > 1:
        middle = int(math.sqrt(low * high)) if high > 2 * low else (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return round(high * unit, DIGITS)
