"""codec delta: what both ends keep of a sample is the same, whatever comes, and stays within its bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitft.common.state import pack, unpack
from splitft.wire.codecs.registry import make_codec
from splitft.wire.memory.delta import SAMPLE_BYTES, DeltaMemory

WIDTH = 96
LENGTHS = [3, 1, 7, 5, 2, 9]  # of samples 0, 1, 2 …
MUCH = 10**9

Batch = list[int]
batches = st.lists(st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, max_size=4), max_size=8)


def lengths_of(samples: Sequence[int]) -> list[int]:
    return [LENGTHS[sample] for sample in samples]


def rows_of(samples: Sequence[int], time: int) -> Tensor:
    """What a client computes of samples: each changes a little from time to time."""
    rows = []
    for sample in samples:
        generator = torch.Generator().manual_seed(sample)
        first = torch.randn(LENGTHS[sample], WIDTH, generator=generator)
        generator.manual_seed(1000 * sample + time)
        rows.append(first + 0.05 * time * torch.randn(LENGTHS[sample], WIDTH, generator=generator))
    return torch.cat(rows)


def equal(one: DeltaMemory, other: DeltaMemory) -> bool:
    (values, tensors), (other_values, others) = pack(one.state()), pack(other.state())
    return bool(values == other_values and all(torch.equal(tensors[path], others[path]) for path in tensors))


def error(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().sum() / other.square().sum())


@given(batches=batches, room=st.sampled_from([0, 3000, MUCH]))
@settings(max_examples=60, deadline=None)
def test_both_ends_keep_the_same_after_any_batches(batches: list[Batch], room: int) -> None:
    here, there = DeltaMemory(room, WIDTH, 2), DeltaMemory(room, WIDTH, 2)
    assert here.digest == ""
    for time, samples in enumerate(batches):
        rows, lengths = rows_of(samples, time), lengths_of(samples)
        came = there.decode(here.encode(rows, samples, lengths), samples, lengths)
        assert came.shape == rows.shape and came.dtype is torch.float32
        assert error(came, rows) < 0.05
        assert here.digest == there.digest and equal(here, there)


def test_a_second_time_takes_fewer_bytes_at_less_error() -> None:
    memory, samples = DeltaMemory(MUCH, WIDTH, 2), [2, 3, 5]
    lengths = lengths_of(samples)
    sizes, errors = [], []
    for time in (0, 1):
        rows = rows_of(samples, time)
        parts = memory.encode(rows, samples, lengths)
        sizes.append(sum(part.nbytes for part in parts))
        kept = [memory.state()["kept"][sample] for sample in samples]
        decoded = torch.cat([make_int8().decode(tuple(parts), [len(parts[0])], WIDTH) for parts in kept])
        errors.append(error(decoded, rows))
    assert sizes[1] < 0.65 * sizes[0] and errors[1] < errors[0]


def make_int8() -> Any:
    return make_codec("int8", "activations")


def test_an_error_does_not_add_up() -> None:
    """A sample that stays as it is comes nearer and nearer."""
    memory, samples, rows = DeltaMemory(MUCH, WIDTH, 2), [5], rows_of([5], 0)
    errors = []
    for _ in range(4):
        there = DeltaMemory(MUCH, WIDTH, 2)
        there.load_state(memory.state())
        errors.append(error(there.decode(memory.encode(rows, samples, [9]), samples, [9]), rows))
    assert errors[0] > errors[1] and max(errors[2:]) < 1e-3


def test_what_does_not_fit_goes_whole_every_time() -> None:
    one = SAMPLE_BYTES + LENGTHS[0] * (WIDTH + 4)
    memory = DeltaMemory(one, WIDTH, 2)
    samples, lengths = [0, 2], lengths_of([0, 2])
    for time in range(3):
        memory.encode(rows_of(samples, time), samples, lengths)
        assert set(memory.state()["kept"]) == {0}


def test_a_state_goes_through_a_checkpoint() -> None:
    here, samples = DeltaMemory(MUCH, WIDTH, 2), [0, 4, 2]
    here.move(3)
    here.encode(rows_of(samples, 0), samples, lengths_of(samples))
    there = DeltaMemory(MUCH, WIDTH, 2)
    there.load_state(unpack(*pack(here.state())))
    assert equal(here, there)
    parts = here.encode(rows_of(samples, 1), samples, lengths_of(samples))
    there.decode(parts, samples, lengths_of(samples))
    assert equal(here, there)
    there.move(3)
    assert equal(here, there)
    there.move(2)
    assert there.digest == "" and not there.state()["kept"]


def test_a_state_is_not_changed_by_what_comes_later() -> None:
    memory, samples = DeltaMemory(MUCH, WIDTH, 2), [0, 4]
    memory.encode(rows_of(samples, 0), samples, lengths_of(samples))
    state, before = memory.state(), pack(memory.state())
    memory.encode(rows_of(samples, 1), samples, lengths_of(samples))
    after = pack(state)
    assert before[0] == after[0] and all(torch.equal(before[1][path], after[1][path]) for path in before[1])


WRONG: dict[str, Callable[[tuple[Tensor, ...]], tuple[Any, Any, Any]]] = {
    "a sample with another length": lambda parts: (parts, [0, 1], [4, 1]),
    "a sample twice, with two lengths": lambda parts: (parts, [1, 1], [3, 1]),
    "a length too few": lambda parts: (parts, [0, 1], [3]),
    "no samples": lambda parts: (parts, [], [3, 1]),
    "parts of differences for new samples": lambda parts: (parts, [2, 1], [7, 1]),
    "a part too few": lambda parts: (parts[1:], [0, 1], [3, 1]),
    "another type": lambda parts: ([part.float() for part in parts], [0, 1], [3, 1]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_no_client_sends_is_refused(wrong: str) -> None:
    memory, samples = DeltaMemory(MUCH, WIDTH, 2), [0, 1]
    memory.encode(rows_of(samples, 0), samples, lengths_of(samples))
    there = DeltaMemory(MUCH, WIDTH, 2)
    there.load_state(memory.state())
    parts = memory.encode(rows_of(samples, 1), samples, lengths_of(samples))
    before = there.digest
    with pytest.raises(ValueError):
        there.decode(*WRONG[wrong](parts))
    assert there.digest == before


def test_what_is_not_finite_is_refused() -> None:
    memory = DeltaMemory(MUCH, WIDTH, 2)
    for time in (0, 1):
        rows = rows_of([2], time)
        spoilt = rows.clone()
        spoilt[4, 5] = float("nan")
        with pytest.raises(ValueError, match="not a number"):
            memory.encode(spoilt, [2], [7])
        memory.encode(rows, [2], [7])
