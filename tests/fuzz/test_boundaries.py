"""Boundaries by name: what the gate lets in, and declared sizes that take no memory."""

from __future__ import annotations

import math
import random
import struct
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fuzz.mutations import flip, one_of_each, set_byte
from reference import make_setting
from splitft import Job
from splitft.engines.network.control import PROTOCOL, SCHEMA, WIRE, Hello, packed
from splitft.engines.network.gate import Gate
from splitft.engines.network.transport.delivery import (
    Delivery,
    Frame,
    Kind,
    ViolationError,
)
from splitft.engines.network.transport.listener import MAX_HELLO_BYTES, read_hello
from splitft.lora.blocks import flatten, resize
from splitft.model.split_model import SplitModel
from splitft.running.prepare import Assembly, assemble
from splitft.server.server import Server
from splitft.wire.channel import Channel
from splitft.wire.messages import Activations, AdapterUp, Message, Metrics, OptimizerState

TOKENS, HIDDEN = 7, 32
CODECS = ("none", "int8", "int4")
LONGEST_SECONDS = 1.0  # of computing, for any message; thousands fit into it


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
    while min(answered[True], answered[False]) < 12:
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


def hello(name: str = "anna", token: str = "0123456789abcdef") -> bytes:
    return Frame(Kind.HELLO, 0, 0, 0, packed(Hello(PROTOCOL, name, token, "ab" * 16, "", 0, SCHEMA))).encode()


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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(WIRE.kinds)), st.lists(headers, max_size=11), st.binary(max_size=64))
def test_any_header_is_read_or_refused(kind: int, values: list[Any], body: bytes) -> None:
    try:
        message = WIRE.decode(framed(msgpack.packb([kind, values])) + body)
    except ValueError:
        return
    assert WIRE.kinds.index(type(message)) == kind
