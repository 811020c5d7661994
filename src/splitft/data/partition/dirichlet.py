"""Dirichlet over the values of a label column, and the deal that all class-wise methods share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splitft.common.shares import largest_remainder
from splitft.data.partition.report import PartitionReport, as_counts, default_names
from splitft.data.partition.shares import Quota, check_enough, hand_out, keep_minimum, log_dirichlet
from splitft.data.rows import Indices


def dirichlet(
    labels: Sequence[str] | Sequence[int], num_clients: int, alpha: float, quota: Quota
) -> tuple[list[Indices], PartitionReport]:
    """Deal the rows of each label to the clients by its own draw from Dirichlet(alpha·1).

    Args:
        labels: One label per row.
        num_clients: Number of clients.
        alpha: Concentration: small gives clients few labels each, large gives equal shares.
        quota: The rows of each client.

    Returns:
        Sorted row indices per client, and the report whose classes are the sorted labels.

    Raises:
        DataError: Too few rows for the minimum per client.

    Source: the usual label-skew partition (Yurochkin et al. 2019, arXiv 1905.12022), one draw per label.
    """
    names, classes = label_classes(labels)
    rng = quota.generator("dirichlet")
    indices, counts = deal_classes(classes, len(names), num_clients, alpha, quota, rng)
    return indices, PartitionReport("dirichlet", default_names(num_clients), names, as_counts(counts))


def label_classes(labels: Sequence[str] | Sequence[int]) -> tuple[tuple[str, ...], Indices]:
    """The sorted different labels (whole numbers by value), and the class of each row, (rows,)."""
    texts = [str(label) for label in labels]
    names = sorted(set(texts))
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    number = {name: i for i, name in enumerate(names)}
    return tuple(names), np.asarray([number[text] for text in texts], dtype=np.int64)


def deal_classes(
    classes: Indices,
    num_classes: int,
    num_clients: int,
    alpha: float,
    quota: Quota,
    rng: np.random.Generator,
) -> tuple[list[Indices], Indices]:
    """Deal every class by p_k ~ Dirichlet(alpha·1) with largest-remainder rounding.

    With `samples_per_client` a client's mix of classes is what the same draw would have dealt it, scaled to
    that many rows.

    Returns:
        Sorted row indices per client and the counts, (client, class).
    """
    check_enough(len(classes), num_clients, quota)
    sizes = np.bincount(classes, minlength=num_classes)
    log_shares = log_dirichlet(alpha, (num_classes, num_clients), rng)
    if quota.samples_per_client is None:
        dealt = [
            largest_remainder(np.exp(log_share), int(size))
            for log_share, size in zip(log_shares, sizes, strict=True)
        ]
        counts = keep_minimum(np.stack(dealt, axis=1), quota.min_rows)
    else:
        with np.errstate(divide="ignore"):  # an empty class has weight 0
            log_mix = log_shares + np.log(sizes)[:, None]
        mix = np.exp(log_mix - log_mix.max(axis=0))
        drawn = quota.samples_per_client
        counts = np.stack([largest_remainder(mix[:, i], drawn) for i in range(num_clients)])
    return hand_out(classes, counts, rng), counts
