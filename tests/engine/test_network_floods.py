"""A server under attack: it stays alive and small, and its clients get the bits that they would have got.

The server is a process of its own, its clients are threads. One of them waits in the middle of a round while
strangers, and clients that are let in, do what they should not.
"""

from __future__ import annotations

import os
import queue
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import msgpack
import pytest
from rich.console import Console

from network_threads import QUIET, Settings, follow
from raw_http2 import PREFACE, RawConnection, frame, grpc_prefix
from reference import make_setting, write_rows
from splitft import Job, run
from splitft.engines.network.control import (
    PROTOCOL,
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
from splitft.engines.network.transport import certs, link
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.frames import PIECE_BYTES, Frame, Kind
from splitft.engines.network.transport.link import SILENCE_SECONDS
from splitft.engines.network.transport.listener import (
    HELLO_SECONDS,
    METHOD,
    MOST_UNREAD,
    SERVICE,
    Listener,
    most_held,
)
from splitft.engines.network.transport.tls_front import HANDSHAKE_SECONDS, STRANGER_SECONDS
from splitft.job import dump_job
from splitft.running.join import MAX_PAYLOAD, channel_credentials
from splitft.running.prepare import assemble
from splitft.running.server_side import most_bytes
from splitft.wire.messages import Activations, AdapterUp
from tcp_proxy import Proxy

HONEST = ["anna", "bert"]
HOSTILE = ["tiny", "total", "tensor", "slow", "late"]
MARGIN = 10.0  # seconds that a busy machine may be late
PATH = f"/{SERVICE}/{METHOD}"


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


class Siege:
    """A server process, and honest clients of which the first waits in its second round until `lift`."""

    def __init__(self, setting: Settings, folder: Path, tls: bool) -> None:
        self.folder, self.output = folder, folder / "run"
        network = {"clients": [*HONEST, *HOSTILE], "min_clients": 2, "rejoin_seconds": 2.0}
        job = Job(**setting | {"network": network}, output_dir=str(self.output))
        dump_job(job, folder / "job.yaml")
        self.certs = folder / "certs" if tls else None
        if self.certs:
            certs.create_authority(self.certs)
            for name in [*HONEST, *HOSTILE]:
                certs.add_client(self.certs, name)
        start = assemble(job, Console(quiet=True), elsewhere=job.network.clients or ())
        self.cap = most_held(len(HONEST + HOSTILE), most_bytes(start))
        self._waits, self._lifted = threading.Event(), threading.Event()
        self.port = self._start()
        self._ends: queue.SimpleQueue[End] = queue.SimpleQueue()

        def take_part(name: str) -> None:
            data, address = Path(setting["data_files"][name]), f"localhost:{self.port}"
            tamper = self._wait if name == HONEST[0] else None
            self._ends.put(follow(name, data, address, folder / name, tamper, self.credentials(name)))

        for name in HONEST:  # they dial for ever where the server is gone
            threading.Thread(target=take_part, args=(name,), daemon=True).start()
        assert self._waits.wait(120), self.said()

    def _start(self) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = [
            sys.executable, "-m", "splitft.launch", "server", str(self.folder / "job.yaml"), "--listen",
            f"127.0.0.1:{port}", *(["--certs", str(self.certs)] if self.certs else []),
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        with (self.folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        return port

    def _wait(self, message: Any) -> list[Any]:
        if isinstance(message, Activations) and message.round == 2 and not self._waits.is_set():
            self._waits.set()
            assert self._lifted.wait(300)
        return [message]

    def credentials(self, name: str) -> Any:
        return channel_credentials("localhost:1", self.certs / name, False) if self.certs else None

    def context(self, name: str = "slow") -> ssl.SSLContext | None:
        """The TLS of a client; None: there is none."""
        if self.certs is None:
            return None
        context = ssl.create_default_context(cafile=str(self.certs / name / certs.CA))
        context.load_cert_chain(self.certs / name / certs.CLIENT, self.certs / name / certs.CLIENT_KEY)
        context.set_alpn_protocols(["h2"])
        return context

    def said(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")[-3000:]

    def memory(self, what: str) -> int:
        """Bytes of the server process: VmRSS now, VmHWM at most."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def lift(self) -> bytes:
        """Let the run go on; return its adapter."""
        self._lifted.set()
        for _ in HONEST:
            assert self._ends.get(timeout=120).ok, self.said()
        assert self.process.wait(60) == 0, self.said()
        return (self.output / "adapter" / "adapter_model.safetensors").read_bytes()

    def stop(self) -> None:
        self._lifted.set()
        self.process.kill()
        self.process.wait()


@pytest.fixture(params=[pytest.param("plain", marks=pytest.mark.slow), "tls"])
def siege(request: pytest.FixtureRequest, setting: Settings, tmp_path: Path) -> Iterator[Siege]:
    made = Siege(setting, tmp_path, request.param == "tls")
    yield made
    made.stop()


def slow_strangers(siege: Siege) -> None:
    """A byte from time to time: of the handshake, of the hello, and of a message of one that is let in."""
    hello = Frame(Kind.HELLO, 0, 0, 0, packed(Hello(PROTOCOL, "slow", "", "ab" * 16, "", 0))).encode()

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
    assert times[0] > (HANDSHAKE_SECONDS if siege.certs else STRANGER_SECONDS) - 1, times


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
        made._outgoing.put_nowait(Frame(Kind.DATA, made.session.sent + 1, 0, 1 << 30, bytes(PIECE_BYTES)))

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


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 2 * MARGIN
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


ATTACKS = (
    slow_strangers, idle_connections, large_declarations, compressed_bomb, ten_thousand_messages,
    declared_payload, declared_tensor,
)  # fmt: skip


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


class Reluctant:
    """A listener, and a client that says hello and then reads nothing."""

    def __init__(self) -> None:
        self.limit = 1 << 20
        self.listener = Listener(
            "127.0.0.1:0", None, lambda hello, identity: None, Welcome("", 0, "{}", (), (), ""), self.limit,
            lambda address, reason: None,
        )  # fmt: skip
        self.stop = threading.Event()
        self.session = ""

    def dial(self, again: bool) -> None:
        """Say hello, and send signs of life until the server hangs up; again and again."""
        while not self.stop.is_set():
            hello = Hello(PROTOCOL, "mallory", "", "ab" * 16, self.session, 0)
            made = RawConnection(self.listener.port)
            made.call(PATH)
            for words in (Frame(Kind.HELLO, 0, 0, 0, packed(hello)), *[Frame(Kind.BEAT, 0, 0, 0)] * 10_000):
                said = words.encode()
                try:
                    made.data(grpc_prefix(len(said)) + said)
                except OSError:
                    break
                if self.stop.wait(0.05):
                    break
            made.close()
            if not again:
                return

    def wait_for(self, kind: str) -> Any:
        while True:
            event = self.listener.events.get(timeout=4 * MARGIN)
            if event.kind == "joined":
                self.session = event.session
            if event.kind == kind:
                return event


@pytest.fixture
def reluctant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reluctant]:
    monkeypatch.setattr(link, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(link, "BEAT_SECONDS", 0.2)
    made = Reluctant()
    yield made
    made.stop.set()
    made.listener.close(0)


def test_who_never_reads_is_expelled_for_it(reluctant: Reluctant) -> None:
    """What fills its connection is bounded by that; it is noticed, and after three times it is enough."""
    dialling = threading.Thread(target=reluctant.dial, args=(True,), daemon=True)
    dialling.start()
    reluctant.wait_for("joined")
    reluctant.listener.send("mallory", bytes(reluctant.limit))
    assert "could be sent" in reluctant.wait_for("expelled").reason
    reluctant.stop.set()
    dialling.join(MARGIN)


def test_what_waits_for_one_that_never_reads_is_bounded(reluctant: Reluctant) -> None:
    dialling = threading.Thread(target=reluctant.dial, args=(False,), daemon=True)
    dialling.start()
    reluctant.wait_for("joined")
    assert wait_for(lambda: reluctant.listener._peers["mallory"].link.connected)
    for _ in range(MOST_UNREAD + 1):
        reluctant.listener.send("mallory", bytes(reluctant.limit))
    assert "wait for it" in reluctant.wait_for("expelled").reason
    reluctant.stop.set()
    dialling.join(MARGIN)


def test_what_waits_for_one_that_is_away_is_bounded(reluctant: Reluctant) -> None:
    """It may be honest: when it is back it starts a new session, and is told everything again."""
    proxy = Proxy(reluctant.listener.port)
    dialler = Dialler(f"127.0.0.1:{proxy.port}", None, "mallory", "", MAX_PAYLOAD)
    try:
        first = dialler.incoming.get(timeout=MARGIN)
        proxy.cut()
        reluctant.wait_for("away")
        for _ in range(MOST_UNREAD + 1):
            reluctant.listener.send("mallory", bytes(reluctant.limit))
        proxy.mend()
        second = dialler.incoming.get(timeout=MARGIN)
        assert isinstance(first, Welcome) and isinstance(second, Welcome)
        assert first.session != second.session
        reluctant.listener.send("mallory", b"anew")
        assert dialler.incoming.get(timeout=MARGIN) == b"anew"
    finally:
        dialler.close(0)
        proxy.close()


def test_one_whose_messages_wait_is_not_read_from(reluctant: Reluctant) -> None:
    """What waits is at most twice the largest message, however much is sent; used ones make room."""
    dialler = Dialler(f"127.0.0.1:{reluctant.listener.port}", None, "anna", "", MAX_PAYLOAD)
    try:
        welcome = dialler.incoming.get(timeout=MARGIN)
        assert isinstance(welcome, Welcome)
        for number in range(20):
            dialler.send(welcome.session, bytes([number]) * (reluctant.limit // 2))
        held = [reluctant.wait_for("said")]
        while True:
            try:
                held.append(reluctant.listener.events.get(timeout=1.0))
            except queue.Empty:
                break
        assert 2 <= len(held) <= 4
        for number in range(len(held), 20):
            reluctant.listener.used(held.pop(0))
            held.append(reluctant.wait_for("said"))
            assert held[-1].payload[0] == number
    finally:
        dialler.close(0)
