"""makespan: the least predicted step time that the clients, their links and the server allow together."""

from __future__ import annotations

import numpy as np

from splitft.cuts.bounds import cut_bounds
from splitft.cuts.fastest import fastest_cuts
from splitft.cuts.nearest import nearest_cuts
from splitft.cuts.observe import Observation, Proposal
from splitft.cuts.predict import Cuts, StepCosts, step_costs, step_seconds
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
    costs = step_costs(clients, observation.num_blocks)
    bounds = cut_bounds(observation, config)
    low = np.array([bounds[name][0] for name in names], dtype=np.int64)
    high = np.array([bounds[name][1] for name in names], dtype=np.int64)
    current = np.clip(np.array([client.cut for client in clients], dtype=np.int64), low, high)

    kind = (observation.order, observation.server_adapter)
    fastest = fastest_cuts(costs, *kind, low, high)
    limit = step_seconds(costs, *kind, fastest) * (1 + SLACK)
    cuts = nearest_cuts(costs, *kind, low, high, current, fastest, limit)

    before, after = step_seconds(costs, *kind, current), step_seconds(costs, *kind, cuts)
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
