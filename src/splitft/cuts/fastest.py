"""The cuts with the least predicted step time: an exact search over the times at which a path may end."""

from __future__ import annotations

import numpy as np

from splitft.cuts.predict import Cuts, Seconds, StepCosts


def fastest_cuts(costs: StepCosts, order: str, server_adapter: str, low: Cuts, high: Cuts) -> Cuts:
    """Return cuts (client,) in [low, high] whose `step_seconds` no other cuts there undercut.

    With `turns` each client counts alone. Otherwise only the longest path matters, so that at
    the optimum every other client may as well hold all blocks that end no later, which unburdens the server
    most. There are clients × blocks such ends; sorted, the server's work at each follows by one running sum.
    """
    if order == "turns":
        return np.where(costs.client_block > costs.server_block, low, high)
    shared = server_adapter == "shared"
    if not shared:  # a client faster than the server shortens its own path with each block more
        low = np.where(costs.client_block <= costs.server_block, high, low)
    cuts = grid(low, high)
    more, client = np.nonzero((cuts > low) & (cuts <= high))
    ends = path_seconds(costs, shared, cuts)[more, client]
    sorting = np.lexsort((more, client, ends))
    client, ends = client[sorting], ends[sorting]
    saved = np.concatenate([[0.0], np.cumsum(costs.server_block[client])])
    server = float(costs.server_seconds(low).sum()) - saved
    longest = float(path_seconds(costs, shared, low).max())
    path = np.maximum(longest, np.concatenate([[0.0], ends]))
    total = path + server if shared else np.maximum(path, server)
    best = int(np.argmin(total))
    return low + np.bincount(client[:best], minlength=len(low))


def grid(low: Cuts, high: Cuts) -> Cuts:
    """The cuts from `low` up, (cut, client), as far as the client with the widest range needs them."""
    widest: Cuts = np.arange(int((high - low).max()) + 1)[:, None]
    return low + widest


def path_seconds(costs: StepCosts, shared: bool, cuts: Cuts) -> Seconds:
    """A client's own way through a step; with a shared adapter the server's work comes after all paths."""
    client = costs.client_seconds(cuts)
    return client if shared else client + costs.server_seconds(cuts)
