"""Hold out whole documents, so that no document is both trained on and evaluated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from splitft.common.seeds import numpy_generator
from splitft.common.shares import largest_remainder
from splitft.data.partition.shares import keep_minimum
from splitft.data.rows import Indices
from splitft.errors import DataError


def hold_out(
    documents: Indices,
    fraction: float,
    seed: int,
    sites: Indices | None = None,
    site_names: Sequence[str] | None = None,
) -> tuple[Indices, Indices]:
    """Split rows into training and held-out rows by document.

    Each site with at least 2 documents has `fraction` of its documents held out, at least one; no site loses
    its last training document.

    documents: of each row, (rows,). sites: natural site of each row, (rows,); without them all rows are one
    site. site_names: with them, the documents held out of a site depend on its own documents alone. Returns
    sorted indices of the training rows and of the held-out rows. Raises DataError where no site has 2
    documents.
    """
    places = np.zeros_like(documents) if sites is None else sites
    sites_of: dict[int, list[int]] = defaultdict(list)
    documents_of: dict[int, list[int]] = defaultdict(list)
    for site, document in np.unique(np.stack([places, documents], axis=1), axis=0):
        sites_of[int(document)].append(int(site))
        documents_of[int(site)].append(int(document))
    left = {site: len(own) for site, own in documents_of.items()}
    held: set[int] = set()
    for site, own in documents_of.items():
        wanted = max(1, round(fraction * len(own)))
        rng = numpy_generator(seed, "hold_out", site_names[site] if site_names else site)
        for document in rng.permutation(own).tolist():
            if len(own) - left[site] >= wanted:
                break
            # A document that several sites share may be the last one of another site.
            if document in held or any(left[other] <= 1 for other in sites_of[document]):
                continue
            held.add(document)
            for other in sites_of[document]:
                left[other] -= 1
    if not held:
        raise DataError(
            f"nothing can be held out: {len(documents)} row(s) in {len(sites_of)} document(s), no two of one "
            "client; add data, or set document_column to a finer column"
        )
    out = np.isin(documents, np.asarray(sorted(held), dtype=np.int64))
    return np.flatnonzero(~out).astype(np.int64), np.flatnonzero(out).astype(np.int64)


def take_some(indices: Indices, limit: int | None, sites: Indices, seed: int, name: str) -> Indices:
    """At most `limit` of the indices: a seeded choice that keeps the sites' shares, and each site if it can.

    limit: None for all. sites: of each of these rows, (indices,). name: their purpose, for the generator.
    """
    if limit is None or len(indices) <= limit:
        return indices
    present, owners = np.unique(sites, return_inverse=True)
    sizes = np.bincount(owners)
    quota = keep_minimum(
        largest_remainder(sizes.astype(np.float64), limit)[:, None], int(limit >= len(present))
    )
    rng = numpy_generator(seed, "take_some", name)
    chosen = [rng.permutation(indices[owners == i])[:count] for i, count in enumerate(quota[:, 0].tolist())]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
