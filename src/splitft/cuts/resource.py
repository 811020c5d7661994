"""resource: equal time for every client."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from splitft.cuts.bounds import cut_bounds
from splitft.cuts.observe import ClientState, Observation, Proposal
from splitft.errors import JobError
from splitft.job.sections import CutPolicyConfig


def resource(observation: Observation, config: CutPolicyConfig) -> Proposal:
    """Give each client the blocks with which its step takes as long as the median client's.

    Raises JobError where the seconds of a client's block are unknown. Source: the paper, where cuts follow
    the clients' computation resources; it states no rule.
    """
    starts = starting_cuts(observation)
    bases = resource_bases(observation, config, starts)
    seconds = median_seconds(observation, starts)
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
) -> dict[str, float]:
    """base_i = (median seconds − fixed_i − transfer_i) / (block_i + adapter_i), within the client's bounds.

    The server's seconds are no part of it: they are not the client's resource, and they shrink as the cut
    grows. Bounding here lets an accuracy weight act on blocks that a client can really hold.
    """
    bounds, seconds = cut_bounds(observation, config), median_seconds(observation, starts)
    bases = {}
    for client in observation.clients:
        low, high = bounds[client.name]
        left, block = seconds - _whatever_the_cut(client), _block_seconds(client)
        if left >= block * high:  # compared before dividing: a block may take no time at all
            bases[client.name] = float(high)
        else:
            bases[client.name] = float(low) if left <= block * low else left / block
    return bases


def median_seconds(observation: Observation, starts: Mapping[str, int]) -> float:
    """Median over clients of the seconds of one step on the client's side, at its starting cut."""
    return median(
        _whatever_the_cut(client) + _block_seconds(client) * starts[client.name]
        for client in observation.clients
    )


def _whatever_the_cut(client: ClientState) -> float:
    return (client.fixed_seconds or 0.0) + (client.transfer_seconds or 0.0)


def _block_seconds(client: ClientState) -> float:
    if client.block_seconds is None:
        raise JobError(
            f"the speed of client {client.name} is unknown: set `devices`, one per client, or choose a "
            "cut_policy.method that needs none (fixed, schedule, accuracy, splitft)"
        )
    return client.block_seconds + (client.adapter_seconds or 0.0)
