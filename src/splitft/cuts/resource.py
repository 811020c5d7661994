"""resource: equal time for every client."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from splitft.cuts.bounds import cut_bounds
from splitft.cuts.observe import Observation, Proposal
from splitft.cuts.predict import step_costs
from splitft.job.sections import CutPolicyConfig


def resource(observation: Observation, config: CutPolicyConfig) -> Proposal:
    """Give each client the blocks with which its step takes as long as the median client's.

    Raises JobError where the seconds of a client's block are unknown. Source: the paper, where cuts follow
    the clients' computation resources; it states no rule.
    """
    starts = starting_cuts(observation)
    bases, seconds = resource_bases(observation, config, starts)
    reasons = {
        name: f"{base:.1f} blocks take about the median client's {seconds:.3g} s a step"
        for name, base in bases.items()
    }
    return Proposal(bases, reasons, {"starting_cuts": starts})


def starting_cuts(observation: Observation) -> dict[str, int]:
    """The cut of each client before round 1, which policies keep in their state."""
    known: Mapping[str, Any] = observation.state.get("starting_cuts", {})
    return {client.name: int(known.get(client.name, client.cut)) for client in observation.clients}


def resource_bases(
    observation: Observation, config: CutPolicyConfig, starts: Mapping[str, int]
) -> tuple[dict[str, float], float]:
    """base_i = (median seconds − fixed_i − transfer_i) / (block_i + adapter_i), within the client's bounds.

    Returns the bases and the median: over clients, the seconds of one step on the client's side at its
    starting cut. The server's seconds are no part of it: they are not the client's resource, and they shrink
    as the cut grows. Bounding here lets an accuracy weight act on blocks that a client can really hold.
    """
    bounds, costs = cut_bounds(observation, config), step_costs(observation)
    fixed = dict(zip(starts, costs.client_fixed.tolist(), strict=True))
    block = dict(zip(starts, costs.client_block.tolist(), strict=True))
    seconds = median(fixed[name] + block[name] * cut for name, cut in starts.items())
    bases = {}
    for name, (low, high) in bounds.items():
        left = seconds - fixed[name]
        if left >= block[name] * high:  # compared before dividing: a block may take no time at all
            bases[name] = float(high)
        else:
            bases[name] = float(low) if left <= block[name] * low else left / block[name]
    return bases, seconds
