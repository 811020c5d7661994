"""The held-out split: whole documents, every site, nothing on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from splitft.data.holdout import hold_out, take_some
from splitft.errors import DataError

ROWS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=80)
FRACTIONS = st.sampled_from([0.01, 0.1, 0.5, 0.9, 0.99])


@given(rows=ROWS, fraction=FRACTIONS, seed=st.integers(), shared=st.booleans())
def test_no_document_is_on_both_sides_and_every_site_keeps_training_rows(
    rows: list[tuple[int, int]], fraction: float, seed: int, shared: bool
) -> None:
    sites = np.array([site for _, site in rows])
    # Documents of one site only, or documents that several sites share.
    documents = np.array([document if shared else document * 4 + site for document, site in rows])
    per_site = {site: len(set(documents[sites == site].tolist())) for site in set(sites.tolist())}
    if max(per_site.values()) < 2:
        with pytest.raises(DataError, match="nothing can be held out"):
            hold_out(documents, fraction, seed, sites)
        return
    try:
        train, held = hold_out(documents, fraction, seed, sites)
    except DataError:
        assert shared  # a document can be the last one of another site
        return
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(rows)))
    assert not set(documents[train].tolist()) & set(documents[held].tolist())
    assert set(sites[train].tolist()) == set(sites.tolist())
    if not shared:
        for site, count in per_site.items():
            got = len(set(documents[held][sites[held] == site].tolist()))
            assert got == (min(max(1, round(fraction * count)), count - 1))


@given(
    documents=st.lists(st.integers(0, 40), min_size=2, max_size=80), fraction=FRACTIONS, seed=st.integers()
)
def test_the_share_of_documents_is_as_asked(documents: list[int], fraction: float, seed: int) -> None:
    total = len(set(documents))
    assume(total >= 2)
    train, held = hold_out(np.array(documents), fraction, seed)
    again = hold_out(np.array(documents), fraction, seed)
    assert np.array_equal(train, again[0])
    assert np.array_equal(held, again[1])
    kept = len({documents[i] for i in held})
    assert kept == min(max(1, round(fraction * total)), total - 1)


def test_other_seeds_hold_out_other_documents() -> None:
    documents = np.arange(100)
    chosen = {tuple(hold_out(documents, 0.1, seed)[1].tolist()) for seed in range(5)}
    assert len(chosen) == 5


@given(
    sites=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    limit=st.integers(1, 70),
    seed=st.integers(),
)
def test_take_some_keeps_every_site_where_it_can(sites: list[int], limit: int, seed: int) -> None:
    places = np.array(sites)
    rows = np.arange(len(sites)) * 3  # row numbers need not be positions
    chosen = take_some(rows, limit, places, seed, "train")
    assert len(chosen) == min(limit, len(sites))
    assert sorted(set(chosen.tolist())) == chosen.tolist()
    assert set(chosen.tolist()) <= set(rows.tolist())
    present = set(sites)
    if limit >= len(present):
        assert {sites[row // 3] for row in chosen} == present
    assert np.array_equal(take_some(rows, None, places, seed, "train"), rows)
