"""Among the cuts that are fast enough, those that move the fewest blocks."""

from __future__ import annotations

import numpy as np

from splitft.cuts.fastest import grid, path_seconds
from splitft.cuts.predict import Cuts, Seconds, StepCosts, step_seconds

_CANDIDATES = 128  # longest paths that are tried with a shared adapter; beyond that, evenly spread ones


def nearest_cuts(
    costs: StepCosts,
    order: str,
    server_adapter: str,
    low: Cuts,
    high: Cuts,
    current: Cuts,
    fastest: Cuts,
    limit: float,
) -> Cuts:
    """Return cuts (client,) in [low, high] within `limit` seconds that move the fewest blocks.

    current: where they move from, within [low, high]. fastest: cuts within the limit. Ties go to clients of
    lower index. Exact, but for a shared adapter with more than 128 different path lengths to consider, where
    128 of them are tried.
    """
    now = step_seconds(costs, order, server_adapter, current)
    if now <= limit:
        return current
    if order == "turns":
        gain = costs.client_block - costs.server_block
        room = np.where(gain > 0, current - low, high - current)
        return current - np.sign(gain).astype(np.int64) * _units(np.abs(gain), room, now - limit)
    if server_adapter != "shared":
        return _within(costs, False, low, high, current, limit, limit)
    found = fastest
    cuts = grid(low, high)
    longest = np.unique(path_seconds(costs, True, cuts)[cuts <= high])
    longest = longest[(longest >= path_seconds(costs, True, low).max()) & (longest <= limit)]
    if len(longest) > _CANDIDATES:
        longest = longest[np.linspace(0, len(longest) - 1, _CANDIDATES).astype(np.int64)]
    for path in longest.tolist():
        cuts = _within(costs, True, low, high, current, path, limit - path)
        fits = step_seconds(costs, order, server_adapter, cuts) <= limit
        if fits and np.abs(cuts - current).sum() < np.abs(found - current).sum():
            found = cuts
    return found


def _within(
    costs: StepCosts,
    shared: bool,
    low: Cuts,
    high: Cuts,
    current: Cuts,
    path_limit: float,
    server_limit: float,
) -> Cuts:
    """Fewest moves such that no path takes longer than one limit, nor the server's work than the other.

    A path grows or shrinks steadily with the cut, so each client may choose from one interval, and its
    nearest end is the least move. What is still too much for the server is taken from it block by block,
    those that save most first; each is one move more, since nobody is left who stands above the own interval.
    """
    cuts = grid(low, high)
    allowed = (path_seconds(costs, shared, cuts) <= path_limit) & (cuts <= high)
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
