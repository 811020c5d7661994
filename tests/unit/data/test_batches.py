"""Packing, padding and the endless stream of batches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitft.data import Rows, collate
from splitft.data.batches import BatchStream
from splitft.data.rows import pack
from splitft.errors import DataError

LENGTHS = st.lists(st.integers(2, 12), min_size=1, max_size=20)


def make_rows(lengths: list[int], prompt: int = 0) -> Rows:
    """Rows whose tokens count 0, 1, 2, ... through all rows; the first `prompt` labels carry no loss."""
    ends = np.cumsum(lengths)
    ids = [np.arange(end - n, end, dtype=np.int32) for n, end in zip(lengths, ends, strict=True)]
    labels = [np.where(np.arange(len(row)) < prompt, -100, row).astype(np.int32) for row in ids]
    return Rows(ids, labels, np.array(lengths, dtype=np.int64), np.arange(len(lengths)))


@given(lengths=LENGTHS, max_length=st.integers(2, 15))
def test_packing_keeps_every_token_in_order(lengths: list[int], max_length: int) -> None:
    packed = pack(make_rows(lengths), max_length)
    total = sum(lengths)
    tail = total % max_length
    kept = total - (tail if tail == 1 else 0)
    assert np.concatenate(packed.input_ids).tolist() == list(range(kept))
    assert np.concatenate(packed.labels).tolist() == list(range(kept))
    sizes = packed.lengths.tolist()
    assert sizes[:-1] == [max_length] * (len(sizes) - 1)
    assert 2 <= sizes[-1] <= max_length
    starts = [int(ids[0]) for ids in packed.input_ids]
    owner = [int(np.searchsorted(np.cumsum(lengths), start, side="right")) for start in starts]
    assert packed.records.tolist() == owner


@given(lengths=LENGTHS, max_length=st.integers(2, 15), prompt=st.integers(1, 8))
def test_packed_labels_stay_with_their_tokens_and_every_block_has_loss(
    lengths: list[int], max_length: int, prompt: int
) -> None:
    rows = make_rows(lengths, prompt)
    truth = np.concatenate(rows.labels)
    packed = pack(rows, max_length)
    for ids, labels in zip(packed.input_ids, packed.labels, strict=True):
        assert np.array_equal(truth[ids], labels)
        assert (labels[1:] != -100).any()


def test_select_takes_everything_along() -> None:
    rows = make_rows([3, 4, 5]).select([2, 0, 2])
    assert rows.lengths.tolist() == rows.full_lengths.tolist() == [5, 3, 5]
    assert rows.records.tolist() == [2, 0, 2]
    assert rows.tokens == 13
    assert len(rows.select([])) == 0


def test_a_batch_is_padded_on_the_right_to_its_own_longest_row() -> None:
    rows = make_rows([2, 9, 4], prompt=1)
    batch = collate(rows, [0, 2], pad_token_id=7)
    assert batch.input_ids.tolist() == [[0, 1, 7, 7], [11, 12, 13, 14]]
    assert batch.attention_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch.labels.tolist() == [[-100, 1, -100, -100], [-100, 12, 13, 14]]
    assert {batch.input_ids.dtype, batch.attention_mask.dtype, batch.labels.dtype} == {torch.int64}
    with pytest.raises(ValueError, match="at least one row"):
        collate(rows, [], 0)


def some_lengths(num_rows: int) -> list[int]:
    """Of rows, from 1 to 512, few of them long."""
    return [1 + 511 * pow(7, row, 101) ** 3 // 10**6 for row in range(num_rows)]


@given(
    num_rows=st.integers(1, 30),
    batch_size=st.integers(1, 12),
    seed=st.integers(),
    steps=st.integers(1, 40),
    grouped=st.booleans(),
)
@settings(deadline=None)
def test_the_stream_shows_every_row_once_an_epoch(
    num_rows: int, batch_size: int, seed: int, steps: int, grouped: bool
) -> None:
    stream = BatchStream(num_rows, batch_size, seed, "client-0", some_lengths(num_rows) if grouped else None)
    batches = [next(stream) for _ in range(steps)]
    assert {len(batch) for batch in batches} == {min(batch_size, num_rows)}
    seen = np.concatenate(batches).tolist()
    for start in range(0, len(seen) - num_rows + 1, num_rows):
        assert sorted(seen[start : start + num_rows]) == list(range(num_rows))


@given(
    num_rows=st.integers(1, 30),
    batch_size=st.integers(1, 12),
    seed=st.integers(),
    before=st.integers(0, 20),
    after=st.integers(1, 20),
    grouped=st.booleans(),
)
@settings(deadline=None)
def test_a_stream_goes_on_where_it_was(
    num_rows: int, batch_size: int, seed: int, before: int, after: int, grouped: bool
) -> None:
    lengths = some_lengths(num_rows) if grouped else None
    stream = BatchStream(num_rows, batch_size, seed, "a", lengths)
    for _ in range(before):
        next(stream)
    state = json.loads(json.dumps(stream.state()))
    expected = [next(stream).tolist() for _ in range(after)]
    resumed = BatchStream(num_rows, batch_size, seed, "a", lengths)
    np.random.seed(0)  # global state must not matter
    resumed.load_state(state)
    assert [next(resumed).tolist() for _ in range(after)] == expected


@pytest.mark.parametrize("num_rows", [800, 403])
def test_batches_of_like_length_have_little_padding(num_rows: int) -> None:
    """In every epoch, also where batches cross its border; and no two epochs have the same batches."""
    lengths = np.array(some_lengths(num_rows))
    padded: dict[bool, int] = {}
    for grouped in (False, True):
        stream = BatchStream(num_rows, 4, 0, "a", lengths if grouped else None)
        batches = [next(stream) for _ in range(3 * num_rows // 4)]
        padded[grouped] = sum(4 * int(lengths[batch].max()) for batch in batches)
        epochs = [{frozenset(b.tolist()) for b in batches[i : i + num_rows // 4]} for i in (0, num_rows // 4)]
        assert len(epochs[0] & epochs[1]) < num_rows // 16
        longest = [int(lengths[batch].max()) for batch in batches[: num_rows // 4]]
        assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
    real = 3 * int(lengths.sum())
    assert padded[True] < 1.15 * real < 1.5 * real < padded[False]


def test_each_client_seed_and_epoch_has_its_own_order() -> None:
    orders = {
        (name, seed): next(BatchStream(20, 20, seed, name)).tolist() for name in ("a", "b") for seed in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    stream = BatchStream(20, 20, 0, "a")
    assert next(stream).tolist() != next(stream).tolist()


def test_streams_without_rows_or_with_a_foreign_state_are_refused() -> None:
    with pytest.raises(DataError, match="client 'a' has no training rows"):
        BatchStream(0, 4, 0, "a")
    stream = BatchStream(10, 4, 0, "a")
    state = BatchStream(11, 4, 0, "a").state()
    with pytest.raises(DataError, match="has 10 training rows, the saved position is for 11"):
        stream.load_state(state)
