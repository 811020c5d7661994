"""A server under attack: it stays alive and small, and its clients get the bits that they would have got.

The server is a process of its own, its clients are threads. One of them waits in the middle of a round while
strangers, and clients that are let in, do what they should not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import msgpack
import pytest
from siege import HONEST, MARGIN, PATH, Siege, wait_for

from network_threads import QUIET, Settings
from raw_http2 import (
    CONTINUATION,
    HEADERS,
    PING,
    PREFACE,
    RESET,
    SETTINGS,
    RawConnection,
    frame,
    grpc_prefix,
)
from reference import make_setting, write_rows
from splitft import Job, run
from splitft.engines.network.control import (
    PROTOCOL,
    SCHEMA,
    WIRE,
    End,
    Held,
    Hello,
    Load,
    Loaded,
    Ready,
    Refused,
    Welcome,
    packed,
)
from splitft.engines.network.transport.delivery import PIECE_BYTES, Frame, Kind
from splitft.engines.network.transport.dialler import MAX_PAYLOAD, Dialler
from splitft.engines.network.transport.link import SILENCE_SECONDS
from splitft.engines.network.transport.listener import HELLO_SECONDS
from splitft.engines.network.transport.strangers import STRANGER_SECONDS
from splitft.wire.messages import AdapterUp


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("floods")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=20, seed=i)) for i, name in enumerate(HONEST)}
    return make_setting(folder, "llama", num_hidden_layers=3) | {
        "data_files": files, "rounds": 2, "local_steps": 2, "cuts": 1, "labels": "server", "warmup_steps": 0,
        "max_eval_samples": None, "partition": {"method": "files"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(setting: Settings, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(Job(**setting, output_dir=str(folder)), console=QUIET)
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(params=[pytest.param("plain", marks=pytest.mark.slow), "tls"])
def siege(request: pytest.FixtureRequest, setting: Settings, tmp_path: Path) -> Iterator[Siege]:
    made = Siege(setting, tmp_path, request.param == "tls")
    yield made
    made.stop()


def slow_strangers(siege: Siege) -> None:
    """A byte from time to time: of the handshake, of the hello, and of a message of one that is let in."""
    hello = Frame(Kind.HELLO, 0, 0, 0, packed(Hello(PROTOCOL, "slow", "", "ab" * 16, "", 0, SCHEMA))).encode()

    def handshake() -> float:
        words = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(90) if siege.certs else PREFACE
        return RawConnection(siege.port).drip(words, 0.6, STRANGER_SECONDS + MARGIN)

    def greeting() -> float:
        made = RawConnection(siege.port, siege.context())
        made.call(PATH)
        made.data(grpc_prefix(len(hello)))
        drops = b"".join(frame(0, hello[i : i + 1], stream=1) for i in range(len(hello)))
        return made.drip(drops, 0.05, HELLO_SECONDS + STRANGER_SECONDS + MARGIN)

    def message() -> float:
        made = RawConnection(siege.port, siege.context())
        made.call(PATH)
        made.data(grpc_prefix(len(hello)) + hello)
        made.data(grpc_prefix(1 << 16))
        return made.drip(frame(0, b"x", stream=1) * 1000, 0.05, SILENCE_SECONDS + STRANGER_SECONDS + MARGIN)

    with ThreadPoolExecutor(3) as pool:
        times = [attack.result() for attack in [pool.submit(a) for a in (handshake, greeting, message)]]
    assert times[0] > STRANGER_SECONDS - 1, times


def idle_connections(siege: Siege) -> None:
    """200 that say nothing, and 30 that open HTTP/2 or TLS and then say nothing. A client still comes in."""
    began = time.monotonic()
    idle = [RawConnection(siege.port) for _ in range(200)]
    for _ in range(30):
        idle.append(RawConnection(siege.port, siege.context()))
        if len(idle) % 2:
            idle[-1].greet()
    dialler = Dialler(f"localhost:{siege.port}", siege.credentials("late"), "late", "", MAX_PAYLOAD)
    try:
        assert isinstance(dialler.incoming.get(timeout=MARGIN), Welcome)
    finally:
        dialler.close(0)
    while idle:
        idle = [one for one in idle if not one.refused()]
        assert time.monotonic() - began < STRANGER_SECONDS + 2 * MARGIN, f"{len(idle)} are still connected"


def control_frames(siege: Siege) -> None:
    """Frames that HTTP/2 takes in before a message, from 8 connections that come again for 2 seconds each."""
    fields = b"\x00\x01a\x01b" * 3000
    for words in (
        frame(CONTINUATION, fields, stream=1),
        frame(SETTINGS, bytes(6)) * 500,
        frame(PING, bytes(8)) * 500,
        frame(HEADERS, fields[:500], 4, 1) + frame(RESET, bytes(4), stream=1),
    ):

        def flood(words: bytes = words) -> None:
            end = time.monotonic() + 2.0
            while time.monotonic() < end:
                with suppress(OSError):
                    made = RawConnection(siege.port, siege.context())
                    made.greet()
                    if words[3] == CONTINUATION:
                        made.socket.sendall(frame(HEADERS, fields[:5], stream=1))
                    while time.monotonic() < end:
                        made.socket.sendall(words)

        with ThreadPoolExecutor(8) as pool:
            for attack in [pool.submit(flood) for _ in range(8)]:
                attack.result()


def large_declarations(siege: Siege) -> None:
    """1 GiB declared to gRPC, 16 MB to HTTP/2, and a message of 8 MiB."""
    for words in (grpc_prefix(1 << 30) + b"x", grpc_prefix((1 << 32) - 1, compressed=True) + b"x"):
        made = RawConnection(siege.port, siege.context())
        made.call(PATH)
        made.data(words)
        assert wait_for(made.refused)
    made = RawConnection(siege.port, siege.context())
    made.call(PATH)
    made.socket.sendall(b"\xff\xff\xff" + frame(0, b"", stream=1)[3:])
    assert wait_for(made.refused)
    assert status(siege, bytes(8 << 20)) in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


def compressed_bomb(siege: Siege) -> None:
    """96 KB that would unpack to 96 MiB, within what a message may weigh."""
    assert status(siege, bytes(96 << 20), compression=grpc.Compression.Gzip) is grpc.StatusCode.UNIMPLEMENTED


def status(siege: Siege, message: bytes, **given: Any) -> grpc.StatusCode:
    """The code with which the server ends a stream that begins with this message."""
    options = (("grpc.max_send_message_length", -1),)
    address, credentials = f"localhost:{siege.port}", siege.credentials("late")
    if credentials is None:
        channel = grpc.insecure_channel(address, options=options, **given)
    else:
        channel = grpc.secure_channel(address, credentials, options=options, **given)
    with channel, pytest.raises(grpc.RpcError) as raised:
        list(channel.stream_stream(PATH)(iter([message]), timeout=2 * MARGIN))
    code = raised.value.code()  # type: ignore[attr-defined]
    assert code is not grpc.StatusCode.DEADLINE_EXCEEDED
    return code


def ten_thousand_messages(siege: Siege) -> None:
    """By one that is no member of this round: nothing uses them, and soon it is not read from any more."""
    dialler, session = come_in(siege, "tiny")
    try:
        for _ in range(10_000):
            dialler.send(session, packed(Held(1)))
        time.sleep(2.0)
    finally:
        dialler.close(0)


def declared_payload(siege: Siege) -> None:
    """A piece of a payload of 1 GiB."""
    dialler, _ = come_in(siege, "total")

    def send() -> None:
        made = dialler._link
        assert made is not None and made._outgoing is not None
        made._outgoing.put(Frame(Kind.DATA, made.session.sent + 1, 0, 1 << 30, bytes(PIECE_BYTES)))

    dialler._loop.call_soon_threadsafe(send)
    assert "at most" in why_expelled(dialler)


def declared_tensor(siege: Siege) -> None:
    """An adapter of terabytes, in a few bytes."""
    dialler, session = come_in(siege, "tensor")
    header = msgpack.packb([WIRE.kinds.index(AdapterUp), [2, [0], [[0, 1 << 40]] * 1000, None]])
    dialler.send(session, len(header).to_bytes(4, "little") + header)
    assert "is declared" in why_expelled(dialler)


def come_in(siege: Siege, name: str) -> tuple[Dialler, str]:
    """Be a client of the job that is where the server wants it; return it and its session."""
    dialler = Dialler(f"localhost:{siege.port}", siege.credentials(name), name, "", MAX_PAYLOAD)
    welcome = dialler.incoming.get(timeout=MARGIN)
    assert isinstance(welcome, Welcome)
    dialler.send(welcome.session, packed(Ready(10, 10)))
    load = dialler.incoming.get(timeout=MARGIN)
    assert isinstance(load, bytes) and isinstance(WIRE.decode(load), Load)
    dialler.send(welcome.session, packed(Loaded(0, True)))
    return dialler, welcome.session


def why_expelled(dialler: Dialler) -> str:
    try:
        came = dialler.incoming.get(timeout=2 * MARGIN)
        end = WIRE.decode(came) if isinstance(came, bytes) else came  # Refused, when it dials again
        assert isinstance(end, End | Refused)
        return end.reason
    finally:
        dialler.close(0)


ATTACKS = (
    slow_strangers, idle_connections, control_frames, large_declarations, compressed_bomb,
    ten_thousand_messages, declared_payload, declared_tensor,
)  # fmt: skip


@pytest.mark.slow
def test_a_server_under_attack_stays_small_and_goes_on(siege: Siege, undisturbed: bytes) -> None:
    before = siege.memory("VmRSS")
    siege.forget_peak()
    for attack in ATTACKS:
        attack(siege)
        assert siege.process.poll() is None, f"{attack.__name__}: {siege.said()}"
        growth = siege.memory("VmHWM") - before
        print(f"{attack.__name__}: {growth / 1e6:.1f} MB of {siege.cap / 1e6:.1f} MB")
        assert growth <= 1.5 * siege.cap, f"{attack.__name__}: {growth} bytes more, the cap is {siege.cap}"
    assert siege.lift() == undisturbed
