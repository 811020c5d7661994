"""Natural sites: one client per value of a column, or per data file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from splitft.common.text import first_few
from splitft.data.partition.deal import Dealt, deal
from splitft.data.partition.shares import Quota
from splitft.errors import DataError

NAME_LENGTH = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")


def natural_sites(method: str, sites: ArrayLike, names: Sequence[str], quota: Quota) -> Dealt:
    """One client per site: all of its rows, or an exact number drawn from them.

    method: by_column or files. sites: number of each row's site, (rows,). names: of the sites: values of the
    column, or names of the files. Raises DataError where a site has fewer than `min_rows` rows, or none is
    there.
    """
    classes = np.asarray(sites, dtype=np.int64)
    if not names:
        raise DataError("no training rows to deal: check the data files and eval_fraction")
    sizes = np.bincount(classes, minlength=len(names)).astype(np.int64)
    needed = max(quota.min_rows, 1)
    poor = [f"{name!r} ({size})" for name, size in zip(names, sizes, strict=True) if size < needed]
    if poor:
        raise DataError(
            f"clients with fewer than {needed} training rows: {first_few(poor, 5)}; leave them out of the "
            "data, lower partition.min_rows or eval_fraction, or raise max_train_samples or max_length"
        )
    if quota.samples_per_client is not None:
        sizes = np.full(len(names), quota.samples_per_client, dtype=np.int64)
    rng = quota.generator(method)
    return deal(classes, names, np.diag(sizes), rng, clients=client_names(names))


def client_names(values: Sequence[str]) -> tuple[str, ...]:
    """Names that are safe as file names and on the wire: [a-z0-9][a-z0-9_-]{0,63}, unique, in order.

    A value that is such a name already keeps it; the others are lowered, stripped of accents, and numbered
    where two values would get the same name.
    """
    taken = {value for value in values if _NAME.match(value)}
    kept: set[str] = set()
    names = []
    for value in values:
        if value in taken and value not in kept:
            kept.add(value)
            names.append(value)
            continue
        name = _unused(_plain(value), taken)
        taken.add(name)
        names.append(name)
    return tuple(names)


def _plain(value: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_-]+", "-", ascii_only).strip("-_")[:NAME_LENGTH] or "site"


def _unused(name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        suffix = f"-{number}"
        candidate, number = name[: NAME_LENGTH - len(suffix)] + suffix, number + 1
    return candidate
