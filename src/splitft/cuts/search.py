"""Searches over the cuts of all clients: the fastest, and among the fast ones those that move the least."""

from __future__ import annotations

import numpy as np

from splitft.cuts.predict import Cuts, Seconds, StepCosts

_CANDIDATES = 128  # longest paths that are tried with a shared adapter; beyond that, evenly spread ones


def fastest_cuts(costs: StepCosts, low: Cuts, high: Cuts) -> Cuts:
    """Return cuts (client,) in [low, high] whose `step_seconds` no other cuts there undercut.

    With `turns` each client counts alone. Otherwise only the longest path matters, so that at
    the optimum every other client may as well hold all blocks that end no later, which unburdens the server
    most. There are clients × blocks such ends; sorted, the server's work at each follows by one running sum.
    """
    if costs.turns:
        return np.where(costs.client_block > costs.server_block, low, high)
    if not costs.shared:  # a client faster than the server shortens its own path with each block more
        low = np.where(costs.client_block <= costs.server_block, high, low)
    cuts = grid(low, high)
    more, client = np.nonzero((cuts > low) & (cuts <= high))
    ends = costs.path_seconds(cuts)[more, client]
    sorting = np.lexsort((more, client, ends))
    client, ends = client[sorting], ends[sorting]
    saved = np.concatenate([[0.0], np.cumsum(costs.server_block[client])])
    server = float(costs.server_seconds(low).sum()) - saved
    longest = float(costs.path_seconds(low).max())
    path = np.maximum(longest, np.concatenate([[0.0], ends]))
    total = path + server if costs.shared else np.maximum(path, server)
    best = int(np.argmin(total))
    return low + np.bincount(client[:best], minlength=len(low))


def grid(low: Cuts, high: Cuts) -> Cuts:
    """The cuts from `low` up, (cut, client), as far as the client with the widest range needs them."""
    widest: Cuts = np.arange(int((high - low).max()) + 1)[:, None]
    return low + widest


def nearest_cuts(costs: StepCosts, low: Cuts, high: Cuts, current: Cuts, fastest: Cuts, limit: float) -> Cuts:
    """Return cuts (client,) in [low, high] within `limit` seconds that move the fewest blocks.

    current: where they move from, within [low, high]. fastest: cuts within the limit. Ties go to clients of
    lower index. Exact, but for a shared adapter with more than 128 different path lengths to consider, where
    128 of them are tried.
    """
    now = costs.step_seconds(current)
    if now <= limit:
        return current
    if costs.turns:
        gain = costs.client_block - costs.server_block
        room = np.where(gain > 0, current - low, high - current)
        return current - np.sign(gain).astype(np.int64) * _units(np.abs(gain), room, now - limit)
    if not costs.shared:
        return _within(costs, low, high, current, limit, limit)
    found = fastest
    cuts = grid(low, high)
    longest = np.unique(costs.path_seconds(cuts)[cuts <= high])
    longest = longest[(longest >= costs.path_seconds(low).max()) & (longest <= limit)]
    if len(longest) > _CANDIDATES:
        longest = longest[np.linspace(0, len(longest) - 1, _CANDIDATES).astype(np.int64)]
    for path in longest.tolist():
        cuts = _within(costs, low, high, current, path, limit - path)
        fits = costs.step_seconds(cuts) <= limit
        if fits and np.abs(cuts - current).sum() < np.abs(found - current).sum():
            found = cuts
    return found


def _within(
    costs: StepCosts, low: Cuts, high: Cuts, current: Cuts, path_limit: float, server_limit: float
) -> Cuts:
    """Fewest moves such that no path takes longer than one limit, nor the server's work than the other.

    A path grows or shrinks steadily with the cut, so each client may choose from one interval, and its
    nearest end is the least move. What is still too much for the server is taken from it block by block,
    those that save most first; each is one move more, since nobody is left who stands above the own interval.
    """
    cuts = grid(low, high)
    allowed = (costs.path_seconds(cuts) <= path_limit) & (cuts <= high)
    first = low + allowed.argmax(axis=0)
    last = np.minimum(high, low + len(cuts) - 1 - allowed[::-1].argmax(axis=0))
    nearest = np.clip(current, first, last)
    excess = float(costs.server_seconds(nearest).sum()) - server_limit
    return nearest + _units(costs.server_block, last - nearest, excess)


def _units(saving: Seconds, room: Cuts, excess: float) -> Cuts:
    """The fewest blocks (client,), at most `room`, whose savings make up for `excess` seconds: greedy."""
    order = np.argsort(-saving, kind="stable")
    saved = np.concatenate([[0.0], np.cumsum((saving * room)[order])])
    whole = int(np.searchsorted(saved[1:], max(excess, 0.0)))  # so many clients move as far as they can
    taken = np.zeros_like(room)
    taken[order[:whole]] = room[order[:whole]]
    if whole < len(order) and excess > saved[whole]:
        last = order[whole]
        taken[last] = min(int(room[last]), int(np.ceil((excess - saved[whole]) / saving[last])))
    return np.where(saving > 0, taken, 0)
