"""The seconds of a step with given cuts: the model that `resource` and `makespan` reckon with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitft.cuts.observe import Observation
from splitft.errors import JobError

Seconds = NDArray[np.float64]
Cuts = NDArray[np.int64]


@dataclass(frozen=True)
class StepCosts:
    """Seconds of one step of each client, (client,): those that its cut changes, and the others.

    turns: one client after another. shared: one server adapter, so that the server waits for all clients.
    """

    client_fixed: Seconds
    client_block: Seconds
    server_fixed: Seconds
    server_block: Seconds
    num_blocks: int
    turns: bool
    shared: bool

    def client_seconds(self, cuts: Cuts) -> Seconds:
        """On the client and on its link."""
        return self.client_fixed + self.client_block * cuts

    def server_seconds(self, cuts: Cuts) -> Seconds:
        """On the server, for this client's rows."""
        return self.server_fixed + self.server_block * (self.num_blocks - cuts)

    def path_seconds(self, cuts: Cuts) -> Seconds:
        """A client's own way through a step; with a shared adapter the server works after all of them."""
        client = self.client_seconds(cuts)
        return client if self.shared else client + self.server_seconds(cuts)

    def step_seconds(self, cuts: Cuts) -> float:
        """Until every client has taken one step; see `predict_step_seconds`."""
        server = self.server_seconds(cuts)
        if self.turns:
            return math.fsum([*self.client_seconds(cuts), *server])
        path = float(self.path_seconds(cuts).max())
        return path + math.fsum(server) if self.shared else max(path, math.fsum(server))


def step_costs(observation: Observation) -> StepCosts:
    """Collect the seconds of the clients; what else is unknown counts as nothing.

    Raises JobError where the seconds of a client's block are unknown.
    """
    for client in observation.clients:
        if client.block_seconds is None:
            raise JobError(
                f"the speed of client {client.name} is unknown: set `devices`, one per client, or choose a "
                "cut_policy.method that needs none (fixed, schedule, accuracy, splitft)"
            )

    def seconds(*names: str) -> Seconds:
        clients = observation.clients
        return np.array([sum(getattr(client, name) or 0.0 for name in names) for client in clients])

    return StepCosts(
        client_fixed=seconds("fixed_seconds", "transfer_seconds"),
        client_block=seconds("block_seconds", "adapter_seconds"),
        server_fixed=seconds("server_fixed_seconds"),
        server_block=seconds("server_block_seconds"),
        num_blocks=observation.num_blocks,
        turns=observation.order == "turns",
        shared=observation.server_adapter == "shared",
    )


def predict_step_seconds(observation: Observation, cuts: Mapping[str, int]) -> float:
    """Predict the seconds until every client has taken one optimizer step with these cuts.

    order turns: the sum of all that clients, links and server do, since nobody works beside another.
    parallel with a shared server adapter: the slowest client's path, then the server's work for all, since
    the server waits for all before it steps. parallel with one adapter per client: no client waits for
    another, so the longer of the slowest client's path, its own trunk included, and of the server's work for
    all. Raises JobError where a client's speed is unknown. Queueing at the server beyond its total
    work is left out.
    """
    chosen = np.array([cuts[client.name] for client in observation.clients], dtype=np.int64)
    return step_costs(observation).step_seconds(chosen)
