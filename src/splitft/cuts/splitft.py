"""splitft: the paper's policy, accuracy weights on a base that follows the resources."""

from __future__ import annotations

from splitft.cuts.accuracy import weigh
from splitft.cuts.observe import Observation, Proposal
from splitft.cuts.resource import resource_bases, starting_cuts
from splitft.job.sections import CutPolicyConfig


def splitft(observation: Observation, config: CutPolicyConfig) -> Proposal:
    """The base of `resource` times the weight of `accuracy`.

    Where a client's speed is unknown, the starting cuts are the bases, so that accuracy alone acts; with
    gamma = 0 the resources alone act; with neither the cuts stay. Source: the paper (adaptive cut).
    """
    starts = starting_cuts(observation)
    if all(client.block_seconds is not None for client in observation.clients):
        bases = resource_bases(observation, config, starts)
    else:
        bases = {name: float(cut) for name, cut in starts.items()}
    return weigh(observation, config, bases, starts)
