"""Codecs: bounds on their error, the form that both ends know, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitft import JobError, register_codec
from splitft.wire.codecs.checked import Checked
from splitft.wire.codecs.codec import Codec
from splitft.wire.codecs.lowbit import pack_bits, rotate, rotate_back, unpack_bits
from splitft.wire.codecs.registry import CODECS, make_codec

NAMES = ("bf16", "int8", "int4", "int3", "int2")
WHAT = ("activations", "gradients")
ERRORS = {"bf16": 1e-5, "int8": 1e-3, "int4": 0.015, "int3": 0.045, "int2": 0.14}  # of the energy
sizes = st.tuples(
    st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 200), st.integers(0, 2**31)
)


def codec_of(name: str, what: str) -> Codec:
    made = make_codec(name, what)  # type: ignore[arg-type]
    assert made is not None
    return made


def through(codec: Codec, rows: Tensor, lengths: list[int]) -> Tensor:
    parts = codec.encode(rows, lengths)
    wanted = codec.layout(lengths, rows.shape[1])
    assert [(part.dtype, tuple(part.shape)) for part in parts] == [(w.dtype, w.shape) for w in wanted]
    assert [part.nbytes for part in parts] == [w.nbytes for w in wanted]
    decoded = codec.decode(parts, lengths, rows.shape[1])
    assert decoded.dtype is torch.float32 and decoded.shape == rows.shape
    return decoded


def hidden_states(lengths: list[int], width: int, seed: int) -> Tensor:
    """Rows like those of a trained model: a few dimensions, and first tokens, stand out."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(lengths), width, generator=generator)
    rows[:, torch.randperm(width, generator=generator)[:4]] *= 30
    rows[torch.tensor([0, *lengths[:-1]]).cumsum(0)] *= 8
    return rows


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("name", NAMES)
@given(sizes=sizes)
@example(sizes=([1], 1, 0))
@example(sizes=([1, 1], 64, 0))
@example(sizes=([3], 65, 0))
@settings(max_examples=60, deadline=None)
def test_rows_of_any_size_come_back_nearly(name: str, what: str, sizes: tuple[list[int], int, int]) -> None:
    lengths, width, seed = sizes
    rows = hidden_states(lengths, width, seed)
    back = through(codec_of(name, what), rows, lengths)
    assert torch.isfinite(back).all()
    if name == "bf16":
        assert torch.equal(back, rows.bfloat16().float())
    elif name == "int8":
        for start in range(0, width, 64):
            part = slice(start, start + 64)
            bound = rows[:, part].abs().amax(1, keepdim=True) / 250
            assert ((back - rows)[:, part].abs() <= bound).all()
    else:  # each value is off by at most what one rotation of clipped values can make of it
        assert ((back - rows).norm(dim=1) <= 1.01 * rows.norm(dim=1)).all()


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("name", NAMES)
def test_the_error_is_that_of_the_bits(name: str, what: str) -> None:
    lengths = [40, 1, 77, 30]
    normal = torch.randn(sum(lengths), 576, generator=torch.Generator().manual_seed(1))
    rows = normal if what == "gradients" else hidden_states(lengths, 576, 1)
    back = through(codec_of(name, what), rows, lengths)
    assert float((back - rows).square().sum() / rows.square().sum()) <= ERRORS[name]


@pytest.mark.parametrize("name", ["int4", "int3", "int2"])
def test_what_stands_out_does_not_spoil_the_rest(name: str) -> None:
    """Without those dimensions and first tokens the error is that of plain rows."""
    lengths, width = [40, 50, 60], 576
    plain = torch.randn(150, width, generator=torch.Generator().manual_seed(2))
    loud = plain.clone()
    loud[:, [3, 100, 400]] = 300.0
    loud[[0, 40, 90]] *= 100
    quiet = torch.ones(150, dtype=torch.bool)
    quiet[[0, 40, 90]] = False
    rest = [i for i in range(width) if i not in (3, 100, 400)]
    codec = codec_of(name, "activations")
    errors = [(through(codec, rows, lengths) - rows)[quiet][:, rest].norm() for rows in (plain, loud)]
    assert errors[1] <= 1.05 * errors[0]


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("name", NAMES)
def test_sizes_from_the_smallest_to_the_largest_survive(name: str, what: str) -> None:
    """Gradients of a good model are tiny; rows of zeros are legal."""
    codec, lengths = codec_of(name, what), [4, 3]
    rows = hidden_states(lengths, 70, 3)
    for scale in (0.0, 1e-15, 1e-9, 1e4):
        back = through(codec, rows * scale, lengths)
        limit = ERRORS[name] * 4 * float((rows * scale).double().square().sum())
        assert float((back - rows * scale).double().square().sum()) <= limit


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(name: str, what: str, value: float) -> None:
    for place in (0, 3):  # a first token, and another
        rows = torch.randn(7, 100)
        rows[place, 50] = value
        with pytest.raises(ValueError, match="not a number"):
            codec_of(name, what).encode(rows, [3, 4])


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("name", NAMES)
def test_no_rows_are_no_rows(name: str, what: str) -> None:
    assert through(codec_of(name, what), torch.empty(0, 96), []).shape == (0, 96)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_rows_are_taken(name: str) -> None:
    rows = torch.randn(6, 128).bfloat16()
    assert torch.isfinite(through(codec_of(name, "activations"), rows, [2, 4])).all()


def test_sizes_on_the_wire() -> None:
    """Bytes of a value against float32, for 40 tokens a sample and SmolLM2's width."""
    found = {
        (name, what): sum(part.nbytes for part in codec_of(name, what).layout([40] * 8, 576))
        / (320 * 576 * 4)
        for name in NAMES
        for what in WHAT
    }
    assert found["int8", "activations"] == pytest.approx(0.258, abs=1e-3)
    assert found["int4", "activations"] < 0.14 and found["int4", "gradients"] < 0.127
    assert found["int3", "activations"] < 0.11 and found["int2", "gradients"] < 0.064


@pytest.mark.parametrize("columns", [-1, 576])
def test_a_column_that_is_none_is_refused(columns: int) -> None:
    codec = codec_of("int4", "activations")
    parts = list(codec.encode(torch.randn(9, 576), [9]))
    place = [part.name for part in codec.layout([9], 576)].index("columns")
    parts[place] = torch.full_like(parts[place], columns)
    with pytest.raises(ValueError, match="column"):
        codec.decode(parts, [9], 576)


@given(bits=st.sampled_from([1, 2, 3, 4]), rows=st.integers(0, 4), count=st.integers(1, 9), data=st.data())
@settings(max_examples=100, deadline=None)
def test_packed_bits_come_back(bits: int, rows: int, count: int, data: st.DataObject) -> None:
    flat = data.draw(
        st.lists(st.integers(0, 2**bits - 1), min_size=rows * count * 8, max_size=rows * count * 8)
    )
    numbers = torch.tensor(flat, dtype=torch.uint8).view(rows, count * 8)
    packed = pack_bits(numbers, bits)
    assert packed.shape == (rows, count * bits)
    assert torch.equal(unpack_bits(packed, bits), numbers)


def test_a_rotation_spreads_what_stands_out_and_can_be_undone() -> None:
    rows = torch.zeros(3, 2, 64)
    rows[1, 0, 5] = 8.0
    rotated = rotate(rows)
    assert float(rotated[1, 0].abs().max()) == pytest.approx(1.0)
    back = torch.empty_like(rows)
    rotate_back(rotated, out=back)
    assert torch.allclose(back, rows, atol=1e-6)


class Halves:
    """A codec of a user's own: float16."""

    def layout(self, lengths, width):  # type: ignore[no-untyped-def]
        from splitft.wire.codecs.codec import Part

        return (Part("values", torch.float16, (sum(lengths), width)),)

    def encode(self, rows, lengths):  # type: ignore[no-untyped-def]
        return (rows.half(),)

    def decode(self, parts, lengths, width):  # type: ignore[no-untyped-def]
        return parts[0].float()


def test_a_codec_of_ones_own_has_a_name() -> None:
    register_codec("halves", Halves)
    assert CODECS.names()[-1] == "halves"
    assert isinstance(make_codec("halves", "gradients"), Checked)
    for name, make, problem in (
        ("int8", Halves, "built-in"), ("none", Halves, "built-in"), ("", Halves, "not empty"),
        ("x", 3, "function or a class"),
    ):  # fmt: skip
        with pytest.raises(JobError, match=problem):
            register_codec(name, make)  # type: ignore[arg-type]
    with pytest.raises(JobError, match="did you mean int4"):
        make_codec("int44", "activations")
