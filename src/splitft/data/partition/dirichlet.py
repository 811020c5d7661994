"""Dirichlet over the values of a label column, and the deal that all class-wise methods share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splitft.common.shares import largest_remainder
from splitft.data.partition.deal import Dealt, deal
from splitft.data.partition.shares import Quota, check_enough, keep_minimum, log_dirichlet
from splitft.data.rows import Indices


def dirichlet(labels: Sequence[str] | Sequence[int], num_clients: int, alpha: float, quota: Quota) -> Dealt:
    """Deal the rows of each label to the clients by its own draw from Dirichlet(alpha·1).

    labels: of each row; the classes are the sorted labels. alpha: small gives clients few labels each, large
    gives equal shares. Raises DataError where there are too few rows for the minimum per client.

    Source: the usual label-skew partition (Yurochkin et al. 2019, arXiv 1905.12022), one draw per label.
    """
    names, classes = label_classes(labels)
    return deal_classes("dirichlet", classes, names, num_clients, alpha, quota)


def label_classes(labels: Sequence[str] | Sequence[int]) -> tuple[tuple[str, ...], Indices]:
    """The sorted different labels (whole numbers by value), and the class of each row, (rows,)."""
    texts = [str(label) for label in labels]
    names = sorted(set(texts))
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    number = {name: i for i, name in enumerate(names)}
    return tuple(names), np.asarray([number[text] for text in texts], dtype=np.int64)


def deal_classes(
    method: str,
    classes: Indices,
    names: Sequence[str],
    num_clients: int,
    alpha: float,
    quota: Quota,
    edges: tuple[int, ...] = (),
) -> Dealt:
    """Deal every class by p_k ~ Dirichlet(alpha·1) with largest-remainder rounding.

    With `samples_per_client` a client's mix of classes is what the same draw would have dealt it, scaled to
    that many rows.
    """
    check_enough(len(classes), num_clients, quota)
    rng = quota.generator(method)
    sizes = np.bincount(classes, minlength=len(names))
    log_shares = log_dirichlet(alpha, (len(names), num_clients), rng)
    drawn = quota.samples_per_client
    if drawn is None:
        shares = zip(log_shares, sizes.tolist(), strict=True)
        dealt = [largest_remainder(np.exp(log_share), size) for log_share, size in shares]
        counts = keep_minimum(np.stack(dealt, axis=1), quota.min_rows)
    else:
        with np.errstate(divide="ignore"):  # an empty class has weight 0
            log_mix = log_shares + np.log(sizes)[:, None]
        mix = np.exp(log_mix - log_mix.max(axis=0))
        counts = np.stack([largest_remainder(mix[:, i], drawn) for i in range(num_clients)])
    return deal(classes, names, counts, rng, edges=edges)
