"""Promises of the wire form: messages come back bit by bit, anything else is refused with ValueError."""

from __future__ import annotations

import ast
import struct
import tracemalloc
from dataclasses import astuple, fields, replace
from inspect import getsource
from typing import Any, get_args, get_type_hints

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitft.wire import ledger, messages
from splitft.wire.encoding import MAX_HEADER_BYTES
from splitft.wire.ledger import Ledger, by_phase, bytes_by_kind
from splitft.wire.messages import (
    Activations,
    AdapterDown,
    AdapterUp,
    Gradients,
    HeldOut,
    LocalLoss,
    Message,
    Metrics,
    OptimizerState,
    TailGradients,
    TrunkOutput,
    decode,
    encode,
    wire_size,
)

KINDS = get_args(Message)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int8, torch.uint8, torch.int64)
ROWS = torch.arange(12, dtype=torch.float32).reshape(4, 3)
ONE_OF_EACH: tuple[Message, ...] = (
    AdapterDown(
        1, 2, (0, 1), (1,), (torch.ones(5), torch.zeros(3)), (1,), (ROWS,), (0,), (3, 3), (torch.ones(4),)
    ),
    OptimizerState(1, (4,), (7, 7), (torch.ones(6),)),
    AdapterUp(1, (0,), (torch.ones(5),), torch.tensor([0.5])),
    Activations(
        1, 0, 0, True, (3, 1), ROWS.bfloat16(), torch.tensor([-100, 1, 2, 3]).int(), None, 7, ROWS[0]
    ),
    HeldOut(1, 0, (2,), torch.tensor([4, 5]).int(), torch.tensor([-100, 5]).int()),
    TrunkOutput(1, 0, 0, False, ROWS),
    TailGradients(1, 0, 0, 2.5, 3, ROWS.half()),
    Gradients(1, 0, 0, 2.5, ROWS, torch.zeros(0)),
    Metrics(1, 2.5, 3.0, 4, 1.0, 5, ROWS[0], ROWS[0], ROWS[0]),
    LocalLoss(1, 0, 0, 2.5, (4, 3), 6),
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any bits of any dtype: empty, scalar, NaN and non-contiguous ones among them."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    bits = draw(st.binary(min_size=8, max_size=8))
    values = torch.frombuffer(bytearray(bits), dtype=dtype)
    tensor = values.repeat(1 + int(np.prod(shape)))[: int(np.prod(shape))].reshape(shape)
    return tensor.T if tensor.ndim == 2 and draw(st.booleans()) else tensor


VALUES = {
    int: st.integers(0, 2**63 - 1),
    float: st.floats(),
    bool: st.booleans(),
    Tensor: tensors(),
    Tensor | None: st.none() | tensors(),
    tuple[int, ...]: st.lists(st.integers(0, 2**40), max_size=20).map(tuple),
    tuple[Tensor, ...]: st.lists(tensors(), max_size=4).map(tuple),
}


def messages_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: VALUES[hint] for name, hint in get_type_hints(kind).items()})


def bits(value: Any) -> Any:
    """A form of a field whose equality is equality of type and of every bit."""
    if isinstance(value, Tensor):
        raw = value.contiguous().reshape(-1)
        return value.dtype, tuple(value.shape), raw.view(torch.uint8).tolist() if raw.numel() else []
    if isinstance(value, tuple):
        return tuple(bits(item) for item in value)
    return type(value), struct.pack("<d", value) if isinstance(value, float) else value


def same(first: Message, second: Message) -> bool:
    return type(first) is type(second) and all(
        bits(getattr(first, f.name)) == bits(getattr(second, f.name)) for f in fields(first)
    )


def is_declared(value: Any, hint: Any) -> bool:
    if hint == Tensor | None:
        return value is None or isinstance(value, Tensor)
    if hint in (Tensor, int, float, bool):
        return type(value) is hint
    return isinstance(value, tuple) and all(type(item) is get_args(hint)[0] for item in value)


def as_declared(message: Message) -> bool:
    return all(is_declared(getattr(message, n), h) for n, h in get_type_hints(type(message)).items())


def wire(header: Any, body: bytes = b"") -> bytes:
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    return struct.pack("<I", len(packed)) + packed + body


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_message_comes_back_bit_by_bit(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(messages_of(kind))
    buffers = encode(message)
    raw = b"".join(buffers)
    assert same(decode(raw), message)
    assert same(decode(bytearray(raw)), message)
    header_bytes, tensor_bytes = wire_size(message)
    assert (header_bytes, tensor_bytes) == (sum(map(len, buffers[:2])), sum(map(len, buffers[2:])))


def test_a_decoded_tensor_can_be_written_to_and_owns_its_memory() -> None:
    raw = bytearray(b"".join(encode(ONE_OF_EACH[3])))
    hidden = decode(raw).hidden  # type: ignore[union-attr]
    raw[-4:] = b"\xff" * 4
    assert torch.equal(hidden.add_(1), ROWS + 1)


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda m: type(m).__name__)
def test_only_whole_and_exact_messages_are_taken(message: Message) -> None:
    raw = b"".join(encode(message))
    for end in range(len(raw)):
        with pytest.raises(ValueError):
            decode(raw[:end])
    for extra in (b"\0", b"\xc0", raw):
        with pytest.raises(ValueError):
            decode(raw + extra)


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda m: type(m).__name__)
def test_damaged_messages_raise_value_error_or_are_messages_all_the_same(message: Message) -> None:
    raw = b"".join(encode(message))
    header_end = 4 + struct.unpack("<I", raw[:4])[0]
    rng = np.random.default_rng(KINDS.index(type(message)))
    refused = 0
    for trial in range(1500):
        damaged = bytearray(raw)
        for _ in range(1 + trial % 4):
            where = int(rng.integers(0, header_end if trial % 3 else len(raw)))
            if trial % 2:
                damaged[where] ^= 1 << int(rng.integers(8))
            else:
                damaged[where] = int(rng.integers(256))
        try:
            decoded = decode(damaged)
        except ValueError:
            refused += 1
        else:
            assert as_declared(decoded)
            assert same(decode(b"".join(encode(decoded))), decoded)
    assert 0 < refused < 1500  # flips of tensor values are messages, flips of lengths are not


@settings(max_examples=400, deadline=None)
@given(header=st.binary(max_size=60), body=st.binary(max_size=20), framed=st.booleans())
def test_noise_raises_value_error_only(header: bytes, body: bytes, framed: bool) -> None:
    try:
        decoded = decode(wire(header, body) if framed else header + body)
    except ValueError:
        return
    assert as_declared(decoded)


HEADERS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=11) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=30,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    kind=st.integers(0, len(KINDS) - 1), values=st.lists(HEADERS, max_size=11), body=st.binary(max_size=20)
)
def test_well_formed_headers_of_wrong_content_raise_value_error_only(
    kind: int, values: list[Any], body: bytes
) -> None:
    try:
        decoded = decode(wire([kind, values], body))
    except ValueError:
        return
    assert as_declared(decoded)


WRONG = {
    int: [True, 1.0, "1", None, -1, 2**63, [1]],
    float: [1, True, "1.0", None, [1.0]],
    bool: [1, 0, None, "true"],
    Tensor: [None, 1, "t", [], [8], [0, -1], [0, 1.0], [0, "1"], [0, True], [0, [1]], [0, 0, 1, 1, 1, 1]],
    Tensor | None: [False, 0, "t", [], [8], [99, 1]],
    tuple[int, ...]: [None, 1, "12", [1.0], [True], [None], [[1]], [-1]],
    tuple[Tensor, ...]: [None, 1, [None], [1], [[]], [["t", 0]], [[0, 0], 1]],
}


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda m: type(m).__name__)
def test_fields_of_a_wrong_type_are_refused_by_name(message: Message) -> None:
    empty = {
        int: 1, float: 1.0, bool: True, Tensor: [0, 0], Tensor | None: None,
        tuple[int, ...]: [], tuple[Tensor, ...]: [],
    }  # fmt: skip
    hints = get_type_hints(type(message))
    right = [empty[hint] for hint in hints.values()]
    kind = KINDS.index(type(message))
    assert as_declared(decode(wire([kind, right])))
    for place, (name, hint) in enumerate(hints.items()):
        for value in WRONG[hint]:
            with pytest.raises(ValueError, match=f"{name}|max_str_len"):
                decode(wire([kind, [*right[:place], value, *right[place + 1 :]]], bytes(64)))
    for values in (right[:-1], [*right, 1], dict(enumerate(right)), None, "abc"):
        with pytest.raises(ValueError):
            decode(wire([kind, values]))
    for wrong_kind in (len(KINDS), -1, True, 1.0, "Metrics", None, [0]):
        with pytest.raises(ValueError):
            decode(wire([wrong_kind, right]))


def test_nan_and_infinite_losses_are_numbers() -> None:
    for loss in (float("nan"), float("inf"), float("-inf")):
        message = Gradients(1, 0, 0, loss, ROWS)
        assert same(decode(b"".join(encode(message))), message)


@pytest.mark.parametrize(
    "raw",
    [
        wire([3, [1, 0, 0, True, [0, 2**30, 2**30]]]),  # a tensor of 4 EiB
        wire([3, [1, 0, 0, True, [0, 2**62, 2**62, 2**62]]], bytes(8)),  # sizes that overflow 64 bits
        wire([0, [1, 1, [], [], [[0, 2**40]] * 50]], bytes(64)),
        struct.pack("<I", 2**32 - 1) + bytes(100),
        wire(b"\xdd\xff\xff\xff\xff"),  # a list of 4 G entries
        wire(b"\xdd\x00\x00\x00\xff" * 100),  # lists in lists
        wire(b"\xdb\xff\xff\xff\xff"),  # a text of 4 GB
        wire(b"\xc6\xff\xff\xff\xff"),  # bytes
        wire(b"\xdf\xff\xff\xff\xff"),  # a map
        wire(b"\xc9\xff\xff\xff\xff\x01"),  # an extension type
    ],
)
def test_declared_sizes_are_refused_before_memory_is_taken(raw: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            decode(raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_headers_have_a_limit() -> None:
    long = Activations(1, 0, 0, True, tuple(range(2**20, 2**20 + 300_000)), ROWS)
    raw = b"".join(encode(long))
    assert struct.unpack("<I", raw[:4])[0] > MAX_HEADER_BYTES
    with pytest.raises(ValueError, match="limit"):
        decode(raw)
    with pytest.raises(ValueError):  # within the bytes, yet more samples than any batch has
        decode(b"".join(encode(replace(long, lengths=(1,) * 100_000))))
    fits = replace(long, lengths=(70_000,) * 10_000)
    assert same(decode(b"".join(encode(fits))), fits)


def test_tensors_of_other_dtypes_are_refused_when_sent() -> None:
    for dtype in (torch.int16, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match=str(dtype)):
            encode(TrunkOutput(1, 0, 0, True, ROWS.to(dtype)))


def test_a_gradient_carrying_tensor_is_sent_by_value() -> None:
    message = TrunkOutput(1, 0, 0, True, ROWS.clone().requires_grad_())
    assert torch.equal(decode(b"".join(encode(message))).hidden, ROWS)  # type: ignore[union-attr]


@pytest.mark.parametrize("module", [messages, ledger])
def test_the_wire_names_no_code(module: Any) -> None:
    """Nothing from outside can choose code: nothing is looked up, imported or evaluated by a text."""
    tree = ast.parse(getsource(module))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    forbidden = {"eval", "exec", "compile", "__import__", "import_module", "globals", "vars", "locals"}
    assert not called & forbidden
    imported = {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "importlib", "marshal", "shelve", "copyreg", "joblib", "yaml"}
    packed = b"".join(buffer for message in ONE_OF_EACH for buffer in encode(message)[:2])
    for kind in KINDS:
        assert kind.__name__.encode() not in packed
        assert not any(field.name.encode() in packed for field in fields(kind))


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda m: type(m).__name__)
def test_the_ledger_counts_what_is_sent(message: Message) -> None:
    sent = sum(map(len, encode(message)))
    assert bytes_by_kind(message).total() == sent
    counts = Ledger()
    counts.count("up", message)
    before = counts.copy()
    counts.count("up", message)
    counts.count("down", message)
    assert counts.total("up") == 2 * sent
    assert counts.since(before).total("up") == counts.since(before).total("down") == sent
    assert before.total("up") == sent
    assert {way: sum(kinds.values()) for way, kinds in counts.by_kind().items()} == {
        "up": 2 * sent,
        "down": sent,
    }


def test_kinds_of_bytes() -> None:
    four, eight = torch.zeros(1), torch.zeros(2)
    training = Activations(1, 0, 0, True, (2,), torch.zeros(2, 3), eight.int(), eight.int(), 0, four)
    counts = bytes_by_kind(training)
    assert (counts["activations"], counts["labels"], counts["evaluation"]) == (24, 16, 0)
    assert counts["control"] == wire_size(training)[0] + 4
    evaluating = replace(training, train=False)
    assert bytes_by_kind(evaluating) == {"evaluation": sum(wire_size(evaluating))}
    assert bytes_by_kind(Metrics(1, 1.0, 1.0, 1, 0.0, 2)).keys() == {"evaluation"}
    ids = HeldOut(1, 0, (2,), eight.int(), eight.int())
    assert bytes_by_kind(ids) == {"held_out": sum(wire_size(ids))}
    assert by_phase({"held_out": 3, "evaluation": 4, "labels": 5}) == {
        "training": 5, "evaluation": 7, "both": 12
    }  # fmt: skip
    assert bytes_by_kind(AdapterUp(1, (0, 3), (four, eight), four))["adapter"] == 12
    assert bytes_by_kind(Gradients(1, 0, 0, 1.0, torch.zeros(2, 3)))["gradients"] == 24
    coded = Activations(1, 0, 0, True, (2,), four[:0], packed=(eight, four.to(torch.bfloat16)))
    assert bytes_by_kind(coded)["activations"] == 8 + 2
    assert bytes_by_kind(Gradients(1, 0, 0, 1.0, four[:0], packed=(eight,)))["gradients"] == 8
    assert len(astuple(training)) == 13
