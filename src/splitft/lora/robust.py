"""Averages that a few dishonest or broken clients cannot take over, block by block; pure functions.

A contribution is an adapter of one block, as a client or its trunk trained it from the global one, and a
weight. Sources: norm clipping as in Sun et al. (arXiv 1911.07963), with a threshold and a weight of our own;
coordinate-wise median and trimmed mean of Yin et al. (arXiv 1803.01498); Krum of Blanchard et al. (NeurIPS
2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median, median_low

import torch

from splitft.lora.blocks import Adapter, BlockAdapter, flatten, merge_components, rank_of, resize

Contribution = tuple[BlockAdapter, float]
OUTLIER = 3.0  # times the median length of the updates; honest ones of a round stay well below
# Two contributions to a block have no median: one is an outlier where its values moved so many times as far
# as the other's, and as a typical one's of the round. Two honest clients' updates differ by less.
OUTLIER_OF_TWO = 10.0


def norm_clip(
    old: BlockAdapter, given: Sequence[Contribution], typical: float | None = None
) -> list[Contribution]:
    """Scale updates of more than OUTLIER times the median length down to that length; leave the others alone.

    Their weight falls by the same factor: the further out an update is, the less it says.

    Args:
        typical: The round's `typical_change`, by which two contributions are compared. None: they are not.
    """
    result = []
    for (block, weight), scale in zip(given, _scales(old, given, typical), strict=True):
        if scale < 1.0:
            start = resize(old, rank_of(block))
            block = {name: start[name] + scale * (tensor - start[name]) for name, tensor in block.items()}
        result.append((block, weight * scale))
    return result


def without_outliers(
    old: BlockAdapter, given: Sequence[Contribution], typical: float | None = None
) -> list[Contribution]:
    """Leave out updates of more than OUTLIER times the median length: always less than half of them, or one
    of two. typical: as of `norm_clip`.
    """
    scales = _scales(old, given, typical)
    return [contribution for contribution, scale in zip(given, scales, strict=True) if scale == 1.0]


def typical_change(old: Adapter, contributions: Mapping[int, Mapping[str, Contribution]]) -> float | None:
    """Return the root mean square of the change of a typical contribution in a round, to any block.

    That is the lower median. None where no block has exactly two contributions, which alone need it.
    """
    if all(len(held) != 2 for held in contributions.values()):
        return None
    every = [lengths_of(old[block], list(held.values()))[1] for block, held in contributions.items()]
    return median_low([mean for means in every for mean in means])


def lengths_of(old: BlockAdapter, given: Sequence[Contribution]) -> tuple[list[float], list[float]]:
    """Return the norm of each update, and the root mean square of its values."""
    updates = [(flatten(block) - flatten(resize(old, rank_of(block)))).double() for block, _ in given]
    norms = [float(torch.linalg.vector_norm(update)) for update in updates]
    return norms, [norm / math.sqrt(max(1, u.numel())) for norm, u in zip(norms, updates, strict=True)]


def _scales(old: BlockAdapter, given: Sequence[Contribution], typical: float | None = None) -> list[float]:
    """Return the median length of the updates over the length of each that is an outlier, 1 for the others.

    An update is what was trained, less the global adapter. An outlier is one by its norm and by the root
    mean square of its values: where ranks differ, an honest update may be long by one of them. A single
    update is none, and of two the longer one by OUTLIER_OF_TWO.
    """
    if len(given) < 3:
        if len(given) < 2 or typical is None:
            return [1.0] * len(given)
        means = lengths_of(old, given)[1]
        most = OUTLIER_OF_TWO * max(typical, min(means))
        return [max(typical, min(means)) / mean if mean > most else 1.0 for mean in means]
    norms, means = lengths_of(old, given)
    scales = []
    for norm, mean in zip(norms, means, strict=True):
        outlier = norm > OUTLIER * median(norms) and mean > OUTLIER * median(means)
        scales.append(max(median(norms) / norm, median(means) / mean) if outlier else 1.0)
    return scales


def trimmed_mean(blocks: Sequence[BlockAdapter], byzantine: int) -> BlockAdapter:
    """Return the mean of every value without its `byzantine` largest and smallest, or fewer of few.

    Values are those of the holders of a component.
    """

    def merge(_: Sequence[int], slices: Sequence[BlockAdapter]) -> BlockAdapter:
        trim, merged = min(byzantine, (len(slices) - 1) // 2), {}
        for name, first in slices[0].items():
            values = torch.stack([block[name].detach().cpu().double() for block in slices])
            ordered = values.sort(dim=0).values
            merged[name] = ordered[trim : len(slices) - trim].mean(dim=0).to(first)
        return merged

    return merge_components(blocks, merge)


def coordinate_median(blocks: Sequence[BlockAdapter], byzantine: int) -> BlockAdapter:
    """Return the median of every value over the holders of its component; of two, the mean."""
    return trimmed_mean(blocks, len(blocks))


def krum(blocks: Sequence[BlockAdapter], byzantine: int) -> BlockAdapter:
    """Return the one adapter that is nearest to its neighbours: the sum of squared distances is smallest.

    Neighbours are the n − byzantine − 2 nearest ones, at least one. Of unequal ranks the smaller are padded.
    """
    rank = max(rank_of(block) for block in blocks)
    flat = torch.stack([flatten(resize(block, rank)).cpu().double() for block in blocks])
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()
    nearest = distances.sort(dim=1).values[:, 1 : 1 + max(1, len(blocks) - byzantine - 2)]
    return blocks[int(nearest.sum(dim=1).argmin())]
