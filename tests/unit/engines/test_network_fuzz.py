"""100,000 damaged messages: nothing that comes from a network raises anything but what is documented.

Every kind of message, frame and hello is mutated byte by byte, and what can still be read goes through the
gate of a real server. The seeds are fixed: a failure comes back.
"""

from __future__ import annotations

import math
import random
import struct
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import msgpack
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor

from reference import make_setting
from splitft import Job
from splitft.engines.network.control import PROTOCOL, SCHEMA, WIRE, Hello, packed
from splitft.engines.network.gate import Gate
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.delivery import (
    BrokenError,
    Delivery,
    Frame,
    Kind,
    ViolationError,
    decode_frame,
)
from splitft.engines.network.transport.listener import MAX_HELLO_BYTES, read_hello
from splitft.lora.blocks import flatten, resize
from splitft.model.split_model import SplitModel
from splitft.running.prepare import Assembly, assemble
from splitft.server.server import Server
from splitft.wire.channel import Channel
from splitft.wire.messages import Activations, AdapterUp, Message, Metrics, OptimizerState

WIRE_MUTANTS, FRAME_MUTANTS, HELLO_MUTANTS = 65_000, 30_000, 5_000  # 100,000 in all, without hypothesis'
TOKENS, HIDDEN = 7, 32
CODECS = ("none", "int8", "int4")
LONGEST_SECONDS = 1.0  # of computing, for any message; thousands fit into it

EDGES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x90, 0x91, 0xC0, 0xC1, 0xC4, 0xCA, 0xCB, 0xCF, 0xD3, 0xDC, 0xDD, 0xDF)


def flip(data: bytearray, rng: random.Random, other: bytes) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_byte(data: bytearray, rng: random.Random, other: bytes) -> None:
    data[rng.randrange(min(len(data), 200))] = rng.choice(EDGES)


def insert(data: bytearray, rng: random.Random, other: bytes) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 9, 40)))


def delete(data: bytearray, rng: random.Random, other: bytes) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 1, 2, 4, 64))]


def truncate(data: bytearray, rng: random.Random, other: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other)) :]


def edit_length(data: bytearray, rng: random.Random, other: bytes) -> None:
    """A length field: of the header, or of four bytes anywhere near the start."""
    at = rng.choice((0, 0, rng.randrange(min(len(data), 60))))
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice((0, 1, len(data), len(data) - 4, 1 << 14, 1 << 20, (1 << 31) - 1, (1 << 63) - 1, -1))
    data[at : at + size] = (value % (1 << (8 * size))).to_bytes(size, rng.choice(("little", "big")))


MUTATIONS: tuple[Callable[[bytearray, random.Random, bytes], None], ...] = (
    flip, flip, set_byte, insert, delete, truncate, splice, edit_length
)  # fmt: skip


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A seed with one to three mutations."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3))):
        if data:
            rng.choice(MUTATIONS)(data, rng, rng.choice(seeds))
    return bytes(data)


def sample(declared: Any, rng: random.Random) -> Any:
    """A value of a field's type, small and valid."""
    match declared:
        case _ if declared == tuple[int, ...]:
            return tuple(rng.randrange(1, 5) for _ in range(rng.randrange(4)))
        case _ if declared == tuple[str, ...]:
            return ("q_proj", "v_proj")
        case _ if declared == tuple[Tensor, ...]:
            return (torch.ones(6), torch.zeros(2, 3, dtype=torch.bfloat16))
        case _ if declared in (Tensor, Tensor | None):
            return torch.ones(TOKENS, HIDDEN)
    return {int: 3, float: 0.5, bool: True, str: "a text"}[declared]


def one_of_each() -> list[Any]:
    """Every message of training, and everything else that is said."""
    rng = random.Random(0)
    return [
        kind(**{name: sample(declared, rng) for name, declared in get_type_hints(kind).items()})
        for kind in WIRE.kinds
    ]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Assembly:
    folder = tmp_path_factory.mktemp("fuzz")
    setting = make_setting(folder, "llama", num_hidden_layers=3) | {
        "labels": "server", "clients": 2, "cuts": 2, "lora_r_cut": 2,
        "network": {"clients": ["anna", "bert"]},
    }  # fmt: skip
    job = Job(**setting, output_dir=str(folder / "run"))
    return assemble(job, Console(quiet=True), elsewhere=["anna", "bert"])


def channels_of(job: Job) -> dict[str, Channel]:
    return {name: Channel(job, HIDDEN) for name in ("anna", "bert")}


def make_gate(start: Assembly, codec: str = "none") -> tuple[Gate, Server]:
    """The gate of a server at which block 1 of anna's is on its way back."""
    start = replace(start, job=start.job.model_copy(update={"codec": codec, "eval_codec": codec}))
    model = SplitModel(start.model, start.split_model.slots, seed=0, server_inputs=start.report.server_inputs)
    server = Server(model, start.job, start.adapter)
    server.hand_out(1, {"anna": 2})
    server.hand_out(2, {"anna": 1})
    return gate_of(start, server), server


def gate_of(start: Assembly, server: Server) -> Gate:
    config = start.model.config
    return Gate(
        start.job,
        server.coordinator.layout,
        server.coordinator.holdings,
        channels_of(start.job),
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        max_length=start.job.max_length,
        dtype=torch.float32,
        only_digests=False,
        needs_ids=start.report.server_inputs == "input_ids",
        adapter=lambda: server.adapter,
    )


def good_messages(start: Assembly, codec: str = "none") -> list[Message]:
    """What a correct client could send to that server, packed by its job's codec: the gate lets it in."""
    channel = channels_of(start.job.model_copy(update={"codec": codec, "eval_codec": codec}))["anna"]
    layout = start.split_model.slots.layout
    hidden = torch.randn(TOKENS, HIDDEN)
    labels = torch.arange(TOKENS, dtype=torch.int32)
    values, moved = (
        sum(math.prod(spec.at_rank(rank)) for spec in layout[block]) for block, rank in ((0, 2), (1, 2))
    )
    trained = flatten(resize(make_gate(start)[1].adapter[0], 2)) + 1e-6 * torch.randn(values)
    messages: list[Message] = [
        Activations(2, 0, 0, True, (4, 3), hidden, labels),
        Activations(2, 1, 0, True, (4, 3), hidden, labels, None, 0, torch.ones(len(layout[0]))),
        Activations(2, 0, 0, False, (TOKENS,), hidden, labels),
        AdapterUp(2, (0,), (trained,), torch.ones(len(layout[0]))),
        OptimizerState(2, (1,), (1,) * len(layout[1]), (torch.ones(2 * moved),)),
        Metrics(2, 1.5, 2.0, 6, 1.0, 7, torch.tensor([1.5]), torch.tensor([2.0]), torch.tensor([6.0])),
    ]
    return [channel.pack(message) for message in messages]


@pytest.mark.parametrize("codec", CODECS)
def test_the_gate_lets_in_what_a_correct_client_sends(codec: str, start: Assembly) -> None:
    """Else the fuzz behind it would test nothing."""
    gate, _ = make_gate(start, codec)
    for message in good_messages(start, codec):
        gate.check("anna", message)


def test_before_anything_is_handed_out_nothing_is_let_in(start: Assembly) -> None:
    model = SplitModel(start.model, start.split_model.slots, seed=0, server_inputs=start.report.server_inputs)
    gate = gate_of(start, Server(model, start.job, start.adapter))
    for message in one_of_each():
        if isinstance(message, Message):
            with pytest.raises(ValueError):
                gate.check("bert", message)


WRONG: dict[str, Callable[[Any], Any]] = {
    "half precision": lambda m: replace(m, hidden=m.hidden.half()),
    "negative squares": lambda m: replace(m, moments=(-m.moments[0],)),
    "steps to come": lambda m: replace(m, moved_steps=(10**6, *m.moved_steps[1:])),
    "a block twice": lambda m: replace(
        m, moved=m.moved * 2, moved_steps=m.moved_steps * 2, moments=m.moments * 2
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_would_spoil_the_trunk_is_not_let_in(wrong: str, start: Assembly) -> None:
    gate, _ = make_gate(start)
    kind = Activations if wrong == "half precision" else OptimizerState
    message = next(m for m in good_messages(start) if isinstance(m, kind))
    gate.check("anna", message)
    with pytest.raises(ValueError):
        gate.check("anna", WRONG[wrong](message))


@pytest.mark.parametrize("codec", CODECS)
def test_mutated_messages_raise_value_errors_alone(codec: str, start: Assembly) -> None:
    gate, _ = make_gate(start, codec)
    seeds = [packed(message) for message in (*one_of_each(), *good_messages(start, codec))]
    rng, seen, slowest = random.Random(1), Counter[str](), 0.0
    for _ in range(WIRE_MUTANTS // len(CODECS)):
        data = mutate(rng, seeds)
        began = time.thread_time()
        try:
            message = WIRE.decode(data)
            seen["read"] += 1
            if isinstance(message, Message):
                gate.check("anna", message)
                seen["let in"] += 1
        except ValueError:
            seen["refused"] += 1
        slowest = max(slowest, time.thread_time() - began)
    assert slowest < LONGEST_SECONDS
    assert seen["refused"] > WIRE_MUTANTS / 9 and seen["read"] > 1000 and seen["let in"] > 100, seen


@pytest.mark.parametrize("codec", CODECS)
def test_what_the_gate_lets_in_does_not_stop_the_server(codec: str, start: Assembly) -> None:
    """Damaged activations with shapes and counts that fit are trained on and evaluated like others."""
    gate, server = make_gate(start, codec)
    server.worker.mark(["anna"])
    seeds = [
        packed(message)
        for message in good_messages(start, codec)
        if getattr(message, "grad_norms", 0) is None
    ]
    rng, answered = random.Random(2), Counter[bool]()
    while min(answered[True], answered[False]) < 25:
        data = bytearray(rng.choice(seeds))
        rng.choice((flip, set_byte))(data, rng, b"")
        try:
            message = WIRE.decode(data)
            if not isinstance(message, Activations):
                continue
            message = gate.check("anna", message)
        except ValueError:
            continue
        server.step({"anna": message})
        server.worker.rewind(["anna"])
        answered[message.train] += 1


def test_mutated_frames_break_a_connection_or_a_session_and_nothing_else() -> None:
    rng, seen = random.Random(3), Counter[str]()
    payloads = [b"", b"x", bytes(300), bytes(range(256)) * 4]
    frames = [frame.encode() for payload in payloads for frame in Delivery(1 << 20).send(payload)]
    frames += [
        Frame(kind, n, m, t, b"abc").encode()
        for kind in Kind
        for n in (0, 1, 2)
        for m in (0, 1)
        for t in (0, 3)
    ]
    for number in range(FRAME_MUTANTS):
        if not number % 10:
            session = Delivery(1 << 20)
            list(session.send(b"one"))
        data = mutate(rng, frames)
        if number % 2 and len(data) >= 25:  # half of them with a sum that fits, so that they get further
            head, piece = data[:21], data[25:]
            data = head + struct.pack("<I", zlib.crc32(piece)) + piece
        try:
            payload = session.take(decode_frame(data))
            seen["taken"] += 1
            assert payload is None or len(payload) <= len(data)
        except (ValueError, BrokenError, ViolationError) as error:
            seen[type(error).__name__] += 1
    assert min(seen[name] for name in ("taken", "ValueError", "BrokenError", "ViolationError")) > 100, seen


def hello(name: str = "anna", token: str = "0123456789abcdef") -> bytes:
    return Frame(Kind.HELLO, 0, 0, 0, packed(Hello(PROTOCOL, name, token, "ab" * 16, "", 0, SCHEMA))).encode()


def test_mutated_hellos_are_refused(tmp_path: Path) -> None:
    """What strangers say first. None that lost its token comes in, under whatever name."""
    door = Admission(
        ("anna", "bert"),
        dict.fromkeys(("anna", "bert"), "0123456789abcdef"),
        False,
        AuditLog(tmp_path, lambda text: None),
    )
    seeds = [
        *[hello(), hello("bert"), hello("\x00")] * 5,
        *(Frame(Kind.HELLO, 0, 0, 0, packed(m)).encode() for m in one_of_each()),
    ]
    rng, seen = random.Random(4), Counter[str]()
    for _ in range(HELLO_MUTANTS):
        data = mutate(rng, seeds)
        if len(data) >= 25:
            data = data[:21] + struct.pack("<I", zlib.crc32(data[25:])) + data[25:]
        try:
            said = read_hello(data)
        except ValueError:
            seen["unread"] += 1
            continue
        refused = door.admit(said, "", "somewhere")
        seen["refused" if refused else "admitted"] += 1
        assert refused or (said.token == door.tokens.get(said.name))
    assert min(seen.values()) > 50 and len(seen) == 3, seen


def framed(header: bytes) -> bytes:
    return struct.pack("<I", len(header)) + header


def tensor_of(*shape: int) -> bytes:
    return msgpack.packb([WIRE.kinds.index(AdapterUp), [1, [0], [[0, *shape]], None]])


BOMBS = {
    "lists in lists": b"\xdc\x40\x00" * 5000 + bytes(16384),
    "lists in a list": b"\x92\x02" + b"\xdd\x00\x00\x3f\xff" * 3000,
    "a list of 4 billion": b"\x92\x02\x95\x01\xdd\xff\xff\xff\xff",
    "terabytes": tensor_of(1 << 40),
    "more than there are numbers": tensor_of(1 << 62, 1 << 62, 1 << 62, 1 << 62),
    "nothing, very wide": tensor_of(0, 1 << 62, 1 << 62),
    "thousands of tensors": msgpack.packb([2, [1, [0], [[0, 1 << 33]] * 16000, None]]),
    "a text of 4 GB": b"\x92\x09\x96\x01\xdb\xff\xff\xff\xff",
    "maps": b"\xdf\xff\xff\xff\xff",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_declared_sizes_take_no_memory(bomb: str, start: Assembly) -> None:
    data = framed(BOMBS[bomb])
    gate, _ = make_gate(start)
    began = time.thread_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            gate.check("anna", WIRE.decode(data))  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 16 * len(data) + (1 << 17)
    finally:
        tracemalloc.stop()
    assert time.thread_time() - began < LONGEST_SECONDS


def test_a_long_hello_is_not_even_read() -> None:
    with pytest.raises(ValueError, match="before anything"):
        read_hello(hello("a" * MAX_HELLO_BYTES))


def test_many_small_pieces_do_not_make_a_payload() -> None:
    """A million pieces of a byte would cost forty times what they hold."""
    session = Delivery(1 << 20)
    with pytest.raises(ViolationError, match="length"):
        session.take(Frame(Kind.DATA, 1, 0, 1 << 20, b"x"))


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
headers = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(WIRE.kinds)), st.lists(headers, max_size=11), st.binary(max_size=64))
def test_any_header_is_read_or_refused(kind: int, values: list[Any], body: bytes) -> None:
    try:
        message = WIRE.decode(framed(msgpack.packb([kind, values])) + body)
    except ValueError:
        return
    assert WIRE.kinds.index(type(message)) == kind
