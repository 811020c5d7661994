"""accuracy and splitft: clients above the mean accuracy take more blocks, those below fewer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from splitft.cuts.observe import Observation, Proposal
from splitft.cuts.resource import resource_bases, starting_cuts
from splitft.job.sections import CutPolicyConfig

# A stated accuracy so far from the median, and by so many median deviations, is no part of the mean.
FAR, FAR_DEVIATIONS = 0.1, 5.0
_EPS = 1e-6  # accuracies that differ by less than this are the same


def accuracy(observation: Observation, config: CutPolicyConfig) -> Proposal:
    """The starting cut times the client's accuracy weight. Source: the paper's rule, see `weigh`."""
    starts = starting_cuts(observation)
    return weigh(observation, config, {name: float(cut) for name, cut in starts.items()}, starts)


def splitft(observation: Observation, config: CutPolicyConfig) -> Proposal:
    """The base of `resource` times the weight of `accuracy`.

    Where a client's speed is unknown, the starting cuts are the bases, so that accuracy alone acts; with
    gamma = 0 the resources alone act; with neither the cuts stay. Source: the paper (adaptive cut).
    """
    starts = starting_cuts(observation)
    if all(client.block_seconds is not None for client in observation.clients):
        bases = resource_bases(observation, config, starts)[0]
    else:
        bases = {name: float(cut) for name, cut in starts.items()}
    return weigh(observation, config, bases, starts)


def weigh(
    observation: Observation,
    config: CutPolicyConfig,
    bases: Mapping[str, float],
    starts: Mapping[str, int],
) -> Proposal:
    """Targets base_i · w_i, where each decision multiplies w_i by 1 + gamma · z_i within [w_min, w_max].

    z_i = (acc_i − mean) / (std + eps) over the clients whose accuracy is known; the others keep their
    weight. Weights start at 1 and live in the state. Source: the paper's rule (adaptive cut), which has
    neither the clipping, nor the memory of w, nor eps.
    """
    known = {c.name: c.accuracy for c in observation.clients if c.accuracy is not None}
    mean, deviation = _mean_and_deviation(_plausible(list(known.values()), observation.self_reported))
    before: Mapping[str, Any] = observation.state.get("weights", {})
    weights: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for client in observation.clients:
        name = client.name
        weight = old = float(before.get(name, 1.0))
        if name in known:
            z = (known[name] - mean) / (deviation + _EPS)
            weight = min(max(old * (1 + config.gamma * z), config.w_min), config.w_max)
            why = f"accuracy {known[name]:.4f} against the mean {mean:.4f}: weight {old:.2f} -> {weight:.2f}"
        else:
            why = f"no accuracy of its own: weight stays {weight:.2f}"
        weights[name] = weight
        reasons[name] = f"{why}, of {bases[name]:.1f} blocks"
    targets = {name: bases[name] * weight for name, weight in weights.items()}
    return Proposal(targets, reasons, {"starting_cuts": dict(starts), "weights": weights})


def _plausible(values: list[float], self_reported: bool) -> list[float]:
    """Return the accuracies that the mean is taken of: where clients state their own, those near the median.

    One that lies then moves its own weight, which has bounds, and no other's.
    """
    if not self_reported or len(values) < 3:
        return values
    middle = median(values)
    most = max(FAR, FAR_DEVIATIONS * median(abs(value - middle) for value in values))
    return [value for value in values if abs(value - middle) <= most]


def _mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """Mean and population standard deviation, whatever the order of the values; of none, zeros."""
    if not values:
        return 0.0, 0.0
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
