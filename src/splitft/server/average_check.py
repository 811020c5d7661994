"""What an average of a round can be: the check of an average that another party made; pure functions.

The server knows what its trunks trained, and how far steps can move what a client was handed out
(`lora/reach.py`). Whatever the clients' updates were, an average lies between these contributions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import (
    Adapter,
    BlockAdapter,
    Layout,
    device_of,
    is_a,
    matrices,
    pairs,
    rank_of,
    resize,
    unflatten,
)
from splitft.lora.ranks import HeldBlocks
from splitft.lora.reach import Reach
from splitft.lora.rules import AGGREGATIONS, ROBUST_RULES
from splitft.server.average import Contributions
from splitft.wire.messages import all_finite

ROUNDING = 1e-5  # of a value's size: what an average in float32 may lie beside its contributions


@dataclass(frozen=True)
class _Within:
    """A contribution to a block, and what it may be.

    Args:
        middle: The trunk's adapter, or what clients were handed out.
        far: How far each value may be from it; or each tensor, by its norm, ().
        count: Number of such contributions.
    """

    middle: BlockAdapter
    far: BlockAdapter
    count: int


def checked_average(
    settings: TrainingSettings,
    layout: Layout,
    old: Adapter,
    held: Sequence[HeldBlocks],
    trunks: Contributions,
    reach: Reach | None,
    blocks: Sequence[int],
    values: Sequence[Tensor],
) -> Adapter:
    """Return the average of a round that another party made, on the device of the global adapter `old`.

    Args:
        layout: Places of adapters in the model.
        held: The division of each client's model.
        trunks: Adapters of trunks.
        reach: Of the round's steps. None: the optimizer has no bound, and sizes alone are checked.
        blocks, values: The answer: blocks, and the values of each, flat.

    Raises ValueError, which names the block, where no average of these clients and trunks can be that.
    """
    wanted = sorted({*trunks, *(block for one in held for block in one.on_client(layout))})
    if list(blocks) != wanted or len(values) != len(wanted):
        raise ValueError(f"averages of blocks {list(blocks)[:9]} where {wanted[:9]} were asked for")
    within = _contributions(settings, layout, old, held, trunks, reach)
    averaged: Adapter = {}
    for block, flat in zip(blocks, values, strict=True):
        if flat.dtype is not torch.float32:
            raise ValueError(f"block {block}: values of {flat.dtype}")
        try:
            adapter = unflatten(flat, layout[block])
        except ValueError as error:
            raise ValueError(f"block {block}: {error}") from None
        ranks = sorted({rank_of(one.middle) for one in within[block]})
        if rank_of(adapter) not in ranks:
            raise ValueError(f"block {block}: rank {rank_of(adapter)}, where {ranks} were averaged")
        if not all_finite(adapter.values()):
            raise ValueError(f"block {block}: values that are not finite")
        if reach is not None and (problem := _beyond(settings, adapter, old[block], within[block])):
            raise ValueError(f"block {block}, {problem}: further than any average of these updates")
        averaged[block] = {name: tensor.to(device_of(old)) for name, tensor in adapter.items()}
    return averaged


def _contributions(
    settings: TrainingSettings,
    layout: Layout,
    old: Adapter,
    held: Sequence[HeldBlocks],
    trunks: Contributions,
    reach: Reach | None,
) -> dict[int, list[_Within]]:
    """Return the contributions to each block; clients with the same blocks have the same bounds."""
    within: dict[int, list[_Within]] = {}
    for block, holders in trunks.items():
        exact = [{name: t.detach().cpu() for name, t in one.items()} for one, _ in holders.values()]
        within[block] = [_Within(one, {n: torch.zeros(()) for n in one}, 1) for one in exact]
    for one, count in Counter(held).items():
        ranks = one.ranks(settings)
        start = {block: resize(old[block], ranks[block]) for block in one.on_client(layout)}
        limits = reach.most(start) if reach is not None else {}
        for block, tensors in start.items():
            far = {name: limit.float() for name, limit in limits.get(block, {}).items()}
            far = far or {name: torch.zeros(()) for name in tensors}
            if settings.freeze_a:
                far |= {name: torch.zeros(()) for name in far if is_a(name)}
            middle = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
            within.setdefault(block, []).append(_Within(middle, far, count))
    return within


def _beyond(
    settings: TrainingSettings, average: BlockAdapter, old: BlockAdapter, within: Sequence[_Within]
) -> str:
    """Return which tensor no average of these contributions can have; empty: none.

    Of an aggregation or a robust rule of one's own nothing is known.
    """
    robust = settings.robust_aggregation
    own = robust if robust not in ("none", "norm_clip") else settings.aggregation
    if not (ROBUST_RULES.is_built_in(own) or AGGREGATIONS.is_built_in(own)):
        return ""
    rank = rank_of(average)
    start = resize(old, rank)
    if settings.freeze_a:
        moved = [n for n, t in average.items() if is_a(n) and not torch.equal(t.cpu(), start[n].cpu())]
        if moved:
            return f"{moved[0]}, which is frozen"
    wide = {name: tensor.detach().cpu() for name, tensor in start.items()}
    within = [_widened(one, rank) for one in within if rank_of(one.middle) <= rank]
    products = {name for pair in pairs(average) for name in pair} if own == "exact" else set[str]()
    for name, tensor in average.items():
        if name not in products and _far(tensor.detach().cpu(), wide[name], name, within):
            return name
    return _products_beyond(average, wide, within) if products else ""


def _widened(one: _Within, rank: int) -> _Within:
    far = {name: limit for name, limit in one.far.items() if limit.ndim}
    return _Within(resize(one.middle, rank), one.far | (resize(far, rank) if far else {}), one.count)


def _far(tensor: Tensor, old: Tensor, name: str, within: Sequence[_Within]) -> bool:
    """Whether a tensor lies outside of what its contributions, and the way to them from `old`, span."""
    if all(one.far[name].ndim or not one.far[name] for one in within):
        low, high = old.clone(), old.clone()
        for one in within:
            middle, far = one.middle[name], one.far[name]
            torch.minimum(low, middle - far if far.ndim else middle, out=low)
            torch.maximum(high, middle + far if far.ndim else middle, out=high)
        slack = ROUNDING * torch.maximum(low.abs(), high.abs())
        return bool(((tensor < low - slack) | (tensor > high + slack)).any())
    # By norms: of rules that choose each value by itself, the squares add up.
    reach = [one.count * ((one.middle[name] - old).norm() + one.far[name].norm()) ** 2 for one in within]
    most = float(torch.stack(reach).sum()) ** 0.5
    return bool((tensor - old).norm() > most + ROUNDING * old.norm())


def _products_beyond(average: BlockAdapter, old: BlockAdapter, within: Sequence[_Within]) -> str:
    """Return which pair has a product B·A, or an A, that is longer than a mean of products; empty: none.

    The mean's rows of A are orthogonal and of one length, that of all contributions' rows on average.
    """
    still = _Within(old, {name: torch.zeros(()) for name in old}, 0)
    result, given = matrices(average), [(matrices(one.middle), one) for one in [still, *within]]
    for a, b in pairs(average):
        names = [name for name in result if name == a or name.startswith(f"{a}.")]
        for name_a, name_b in zip(names, [name.replace(a, b) for name in names], strict=True):
            longest = [[float(m[n].norm() + one.far[w].norm()) for n, w in ((name_a, a), (name_b, b))]
                       for m, one in given]  # fmt: skip
            most_a = max(long_a for long_a, _ in longest) * sum(one.count for one in within) ** 0.5
            most = max(long_a * long_b for long_a, long_b in longest)
            long_a, long_b = float(result[name_a].norm()), float(result[name_b].norm())
            product = long_a * long_b / result[name_a].shape[0] ** 0.5
            if long_a > most_a * (1 + ROUNDING) or product > most * (1 + ROUNDING):
                return name_a
    return ""
