"""Promises of the partition methods, as properties over random data."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitft.data.partition.deal import PartitionReport, held_out, iid
from splitft.data.partition.dirichlet import dirichlet, label_classes
from splitft.data.partition.length_dirichlet import length_classes, length_dirichlet, length_edges
from splitft.data.partition.shares import Quota
from splitft.data.partition.sites import client_names, natural_sites
from splitft.errors import DataError

LENGTHS = st.lists(st.integers(2, 400), min_size=1, max_size=150)
CLIENTS = st.integers(1, 9)
ALPHAS = st.sampled_from([1e-9, 0.01, 0.1, 0.5, 1.0, 10.0, 1e6, float("inf")])
SEEDS = st.integers(-(2**40), 2**70)
METHODS = ("length_dirichlet", "dirichlet", "iid")


def deal(
    method: str, lengths: list[int], clients: int, alpha: float = 0.5, seed: int = 0, **options: int | None
) -> tuple[list[np.ndarray], PartitionReport]:
    """Any dealing method on the same rows; labels are the lengths modulo 4."""
    quota = Quota(seed=seed, **options)
    if method == "length_dirichlet":
        return length_dirichlet(lengths, clients, alpha, 5, quota)
    if method == "dirichlet":
        labels = [n % 4 for n in lengths]
        return dirichlet(labels, clients, alpha, quota)
    return iid(len(lengths), clients, quota)


def by_column(
    values: Sequence[str] | Sequence[int], quota: Quota
) -> tuple[list[np.ndarray], PartitionReport]:
    """One client for each value of a column."""
    names, sites = label_classes(values)
    return natural_sites("by_column", sites, names, quota)


def classes_of(method: str, lengths: list[int], report: PartitionReport) -> np.ndarray:
    if method == "length_dirichlet":
        return length_classes(lengths, report.edges)
    if method == "dirichlet":
        return np.array([report.classes.index(str(n % 4)) for n in lengths])
    return np.zeros(len(lengths), dtype=np.int64)


def assert_report_is_true(
    indices: list[np.ndarray], classes: np.ndarray, counts: tuple[tuple[int, ...], ...]
) -> None:
    for rows, expected in zip(indices, counts, strict=True):
        assert rows.dtype == np.int64
        assert np.bincount(classes[rows], minlength=len(expected)).tolist() == list(expected)


def skew(report: PartitionReport) -> float:
    """Mean total variation distance between a client's class shares and the shares of all rows."""
    counts = np.asarray(report.counts, dtype=float)
    overall = counts.sum(axis=0) / counts.sum()
    own = counts / counts.sum(axis=1, keepdims=True)
    return float(np.abs(own - overall).sum(axis=1).mean() / 2)


@pytest.mark.parametrize("method", METHODS)
@given(lengths=LENGTHS, clients=CLIENTS, alpha=ALPHAS, seed=SEEDS, minimum=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_every_row_is_dealt_once_and_the_minimum_is_kept(
    method: str, lengths: list[int], clients: int, alpha: float, seed: int, minimum: int
) -> None:
    if len(lengths) < clients * minimum:
        with pytest.raises(DataError, match=f"cannot give {clients} clients {minimum} rows? each"):
            deal(method, lengths, clients, alpha, seed, min_rows=minimum)
        return
    indices, report = deal(method, lengths, clients, alpha, seed, min_rows=minimum)
    assert len(indices) == clients
    assert sorted(np.concatenate(indices).tolist()) == list(range(len(lengths)))
    assert min(map(len, indices)) >= minimum
    assert sum(map(sum, report.counts)) == len(lengths)
    assert_report_is_true(indices, classes_of(method, lengths, report), report.counts)


@pytest.mark.parametrize("method", METHODS)
@given(lengths=LENGTHS, clients=CLIENTS, alpha=ALPHAS, seed=SEEDS, samples=st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_samples_per_client_draws_exactly_that_many_and_repeats_only_out_of_need(
    method: str, lengths: list[int], clients: int, alpha: float, seed: int, samples: int
) -> None:
    indices, report = deal(method, lengths, clients, alpha, seed, samples_per_client=samples)
    classes = classes_of(method, lengths, report)
    assert [len(rows) for rows in indices] == [samples] * clients
    assert_report_is_true(indices, classes, report.counts)
    sizes = np.bincount(classes, minlength=len(report.classes))
    asked = np.asarray(report.counts)
    for rows, mine in zip(indices, asked, strict=True):  # within one client
        for row, times in zip(*np.unique(rows, return_counts=True), strict=True):
            assert times <= -(-mine[classes[row]] // sizes[classes[row]])
    drawn = np.bincount(np.concatenate(indices), minlength=len(lengths))
    for kind, total in enumerate(asked.sum(axis=0)):  # over all clients, as evenly as can be
        times = drawn[classes == kind]
        assert set(times.tolist()) <= {total // sizes[kind], -(-total // sizes[kind])}


@pytest.mark.parametrize("method", METHODS)
@given(clients=st.integers(2, 6), seed=SEEDS, samples=st.sampled_from([None, 30]))
@settings(max_examples=20, deadline=None)
def test_the_seed_alone_decides(method: str, clients: int, seed: int, samples: int | None) -> None:
    lengths = list(range(2, 102))
    np.random.seed(0)
    first, report = deal(method, lengths, clients, seed=seed, samples_per_client=samples)
    np.random.seed(1)  # global state must not matter
    again, report_again = deal(method, lengths, clients, seed=seed, samples_per_client=samples)
    other, _ = deal(method, lengths, clients, seed=seed + 1, samples_per_client=samples)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert report == report_again
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("method", ("length_dirichlet", "dirichlet"))
@pytest.mark.parametrize("seed", range(5))
def test_large_alpha_tends_to_equal_shares_and_small_alpha_is_skewed(method: str, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(2, 500, size=6000).tolist()
    equal = deal(method, lengths, 5, alpha=1e9, seed=seed)[1]
    counts = np.asarray(equal.counts)
    assert np.ptp(counts, axis=0).max() <= 2  # of about 240 or 300 rows per client and class
    by_alpha = [skew(deal(method, lengths, 5, alpha=alpha, seed=seed)[1]) for alpha in (0.1, 1.0, 100.0)]
    assert by_alpha[0] > 0.35
    assert by_alpha[0] > by_alpha[1] > by_alpha[2]
    assert by_alpha[2] < 0.1
    # The measure itself: rows dealt iid have next to none of this skew.
    shuffled, report = iid(len(lengths), 5, Quota(seed=seed))
    classes = classes_of(method, lengths, equal)
    iid_counts = [np.bincount(classes[rows], minlength=len(equal.classes)).tolist() for rows in shuffled]
    iid_report = PartitionReport(report.clients, equal.classes, tuple(map(tuple, iid_counts)))
    assert skew(iid_report) < 0.05 < by_alpha[0] / 7


@given(num_rows=st.integers(1, 300), clients=CLIENTS)
def test_iid_shares_differ_by_at_most_one_row(num_rows: int, clients: int) -> None:
    indices, _ = iid(num_rows, clients, Quota(min_rows=0))
    sizes = [len(rows) for rows in indices]
    assert max(sizes) - min(sizes) <= 1


@given(lengths=LENGTHS, buckets=st.integers(1, 8))
def test_length_classes_are_quantiles_and_none_is_empty(lengths: list[int], buckets: int) -> None:
    edges = length_edges(lengths, buckets)
    sizes = np.bincount(length_classes(lengths, edges), minlength=len(edges) + 1)
    assert list(edges) == sorted(set(edges))
    assert 1 <= len(sizes) <= buckets
    assert sizes.min() >= 1
    if len(set(lengths)) == len(lengths) >= buckets:
        assert sizes.max() - sizes.min() <= 1


def test_class_names_tell_the_edges() -> None:
    _, report = length_dirichlet([2, 3, 4, 5, 5, 9, 9, 20, 21, 30], 2, 0.5, 4, Quota())
    assert report.edges == (4, 5, 20)
    assert report.classes == ("≤ 4", "5", "6–20", "> 20")


@pytest.mark.parametrize("method", METHODS)
@given(train=LENGTHS, test=LENGTHS, clients=CLIENTS, alpha=ALPHAS, seed=SEEDS)
@settings(max_examples=50, deadline=None)
def test_held_out_rows_are_dealt_once_and_every_client_gets_one(
    method: str, train: list[int], test: list[int], clients: int, alpha: float, seed: int
) -> None:
    _, report = deal(method, train, clients, alpha, seed, min_rows=0)
    classes = np.random.default_rng(len(test)).integers(-1, len(report.classes), size=len(test))
    indices = held_out(report, classes, seed=seed)
    assert sorted(np.concatenate(indices).tolist()) == list(range(len(test)))
    assert len(indices) == clients
    if len(test) >= clients:
        assert min(map(len, indices)) >= 1


@pytest.mark.parametrize("alpha", (0.1, 1.0))
def test_held_out_rows_resemble_the_clients_own_training_rows(alpha: float) -> None:
    rng = np.random.default_rng(3)
    train, test = rng.integers(2, 500, size=4000), rng.integers(2, 500, size=1000)
    _, report = length_dirichlet(train, 5, alpha, 5, Quota())
    classes = length_classes(test, report.edges)
    indices = held_out(report, classes)
    got = np.stack([np.bincount(classes[rows], minlength=5) for rows in indices])
    trained = np.asarray(report.counts)
    shares = got / got.sum(axis=0) - trained / trained.sum(axis=0)
    assert np.abs(shares).max() < 0.01


@given(
    values=st.lists(st.sampled_from(["Nord", "nord", "Süd", "10", "9", "b c"]), min_size=1, max_size=60),
    samples=st.sampled_from([None, 1, 25]),
)
def test_by_column_gives_every_value_its_own_rows(values: list[str], samples: int | None) -> None:
    indices, report = by_column(values, Quota(samples_per_client=samples))
    assert sorted(report.classes) == sorted(set(values))
    for label, rows in zip(report.classes, indices, strict=True):
        own = [i for i, value in enumerate(values) if value == label]
        if samples is None:
            assert rows.tolist() == own
        else:
            assert len(rows) == samples
            assert set(rows.tolist()) <= set(own)


def test_whole_number_labels_are_ordered_by_value() -> None:
    assert by_column([10, 9, 2000, 9], Quota())[1].classes == ("9", "10", "2000")


@given(values=st.lists(st.text(max_size=90), unique=True, max_size=30))
def test_client_names_are_safe_and_unique(values: list[str]) -> None:
    names = client_names(values)
    assert len(names) == len(values) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name) for name in names)


def test_client_names_keep_what_is_already_a_name() -> None:
    assert client_names(["Zürich", "A", "a", "a-2", "../../x", "日本"]) == (
        "zurich",
        "a-3",
        "a",
        "a-2",
        "x",
        "site",
    )
    long = ["x" * 90 + "1", "x" * 90 + "2"]
    assert client_names(long) == ("x" * 64, "x" * 62 + "-2")


def test_files_deals_by_source() -> None:
    indices, report = natural_sites("files", [0, 1, 1, 0, 2], ["north", "south", "East wing"], Quota())
    assert [rows.tolist() for rows in indices] == [[0, 3], [1, 2], [4]]
    assert report.clients == ("north", "south", "east-wing")
    with pytest.raises(DataError, match=r"'empty' \(0\)"):
        natural_sites("files", [0, 0], ["full", "empty"], Quota())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iid(3, 5, Quota()), "lower clients to 3"),
        (lambda: iid(30, 5, Quota(min_rows=10)), "lower partition.min_rows to 6"),
        (lambda: iid(0, 5, Quota()), "no training rows"),
        (lambda: length_dirichlet([], 2, 0.5, 5, Quota()), "no training rows"),
        (lambda: by_column([], Quota()), "no training rows"),
        (lambda: iid(9, 3, Quota(4, 2)), "samples_per_client=2 is below"),
        (lambda: by_column(["a", "a", "b"], Quota(min_rows=2)), r"'b' \(1\)"),
    ],
)
def test_impossible_deals_say_what_to_change(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=message):
        call()
