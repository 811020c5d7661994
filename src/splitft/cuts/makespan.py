"""makespan: the least predicted step time that the clients, their links and the server allow together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from splitft.cuts.bounds import cut_bounds
from splitft.cuts.observe import Observation, Proposal
from splitft.cuts.predict import Cuts, StepCosts, step_costs
from splitft.cuts.search import fastest_cuts, nearest_cuts
from splitft.job.sections import CutPolicyConfig

SLACK = 0.02  # cuts this close to the least time, as a share of it, are as good


def makespan(observation: Observation, config: CutPolicyConfig) -> Proposal:
    """Minimise `predict_step_seconds` within the bounds; among cuts within 2 % of it move the fewest blocks.

    The optimum is exact, for thousands of clients in well under a second. The paper's rule differs: it gives
    strong clients more work whether or not other clients wait for them. Raises JobError where a client's
    speed is unknown.
    """
    clients = sorted(observation.clients, key=lambda client: client.name)  # ties must not hang on the order
    names = [client.name for client in clients]
    costs = step_costs(replace(observation, clients=tuple(clients)))
    bounds = cut_bounds(observation, config)
    low, high = np.array([bounds[name] for name in names], dtype=np.int64).T
    current = np.clip(np.array([client.cut for client in clients], dtype=np.int64), low, high)

    fastest = fastest_cuts(costs, low, high)
    cuts = nearest_cuts(costs, low, high, current, fastest, costs.step_seconds(fastest) * (1 + SLACK))

    before, after = costs.step_seconds(current), costs.step_seconds(cuts)
    reason = f"bottleneck: {bottleneck(costs, names, cuts)}; a step takes {after:.3g} s"
    if (cuts == current).all():
        reason += f", within {SLACK:.0%} of the least possible"
    else:
        reason += f", with the cuts until now {before:.3g} s"
    targets = dict(zip(names, map(float, cuts.tolist()), strict=True))
    return Proposal(targets, dict.fromkeys(names, reason))


def bottleneck(costs: StepCosts, names: list[str], cuts: Cuts) -> str:
    """Return the party with the largest part of a step's time: `client NAME`, or `the server`."""
    client, server = costs.client_seconds(cuts), float(costs.server_seconds(cuts).sum())
    slowest = int(np.argmax(client))
    if server >= client[slowest]:
        return f"the server ({server:.3g} s for all clients)"
    return f"client {names[slowest]} ({client[slowest]:.3g} s)"
