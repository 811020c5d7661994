"""The seconds of a step with given cuts: the model that `makespan` minimises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitft.cuts.observe import ClientState, Observation
from splitft.errors import JobError

Seconds = NDArray[np.float64]
Cuts = NDArray[np.int64]


@dataclass(frozen=True)
class StepCosts:
    """Seconds of one step of each client, (client,): those that its cut changes, and the others.

    client_seconds = client_fixed + client_block · cut; server_seconds = server_fixed + server_block ·
    (num_blocks − cut).
    """

    client_fixed: Seconds
    client_block: Seconds
    server_fixed: Seconds
    server_block: Seconds
    num_blocks: int

    def client_seconds(self, cuts: Cuts) -> Seconds:
        """On the client and on its link."""
        return self.client_fixed + self.client_block * cuts

    def server_seconds(self, cuts: Cuts) -> Seconds:
        """On the server, for this client's rows."""
        return self.server_fixed + self.server_block * (self.num_blocks - cuts)


def step_costs(clients: Sequence[ClientState], num_blocks: int) -> StepCosts:
    """Collect the seconds of the clients. Raises JobError where those of a client's block are unknown.

    What else is unknown counts as nothing.
    """
    unknown = [client.name for client in clients if client.block_seconds is None]
    if unknown:
        raise JobError(
            f"the speed of client {unknown[0]} is unknown, so no time can be predicted: set `devices`, one "
            "per client, or choose another cut_policy.method"
        )
    return StepCosts(
        client_fixed=_array((c.fixed_seconds or 0.0) + (c.transfer_seconds or 0.0) for c in clients),
        client_block=_array((c.block_seconds or 0.0) + (c.adapter_seconds or 0.0) for c in clients),
        server_fixed=_array(c.server_fixed_seconds or 0.0 for c in clients),
        server_block=_array(c.server_block_seconds or 0.0 for c in clients),
        num_blocks=num_blocks,
    )


def step_seconds(costs: StepCosts, order: str, server_adapter: str, cuts: Cuts) -> float:
    """Seconds until every client has taken one step; see `predict_step_seconds`."""
    client, server = costs.client_seconds(cuts), costs.server_seconds(cuts)
    if order == "turns":
        return math.fsum([*client, *server])
    if server_adapter == "shared":
        return float(client.max()) + math.fsum(server)
    return max(float((client + server).max()), math.fsum(server))


def predict_step_seconds(observation: Observation, cuts: Mapping[str, int]) -> float:
    """Predict the seconds until every client has taken one optimizer step with these cuts.

    order turns: the sum of all that clients, links and server do, since nobody works beside another.
    parallel with a shared server adapter: the slowest client's path, then the server's work for all, since
    the server waits for all before it steps. parallel with one adapter per client: no client waits for
    another, so the longer of the slowest client's path, its own trunk included, and of the server's work for
    all. Raises JobError where a client's speed is unknown. Queueing at the server beyond its total
    work is left out.
    """
    costs = step_costs(observation.clients, observation.num_blocks)
    chosen = np.array([cuts[client.name] for client in observation.clients], dtype=np.int64)
    return step_seconds(costs, observation.order, observation.server_adapter, chosen)


def _array(values: object) -> Seconds:
    return np.fromiter(values, dtype=np.float64)  # type: ignore[call-overload,no-any-return]
