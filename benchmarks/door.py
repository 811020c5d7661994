"""The door of a server: who comes in, what it costs, and what strangers cost.

    python benchmarks/door.py join [--clients 500] [--connects 1000]
    python benchmarks/door.py cost [--megabytes 200] [--repeats 4]
    python benchmarks/door.py floods [--seconds 4]

`join`: clients with a certificate each, 200 ms away, dial a server that is then started; seconds until all
are in. Again while one other address makes bare TCP connects. `cost`: CPU seconds of the server process for
each megabyte from one client, of the door and of gRPC's own TLS alone, in turns. `floods`: peak memory of a
server without client certificates while 8 connections send HTTP/2 frames without an end, with the door and
with gRPC alone. Servers, attackers and clients are processes of their own, on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import grpc

from ports import free_port
from raw_http2 import CONTINUATION, HEADERS, PING, RESET, SETTINGS, RawConnection, frame
from splitft.engines.network.control import Welcome
from splitft.engines.network.transport import certs, entrance
from splitft.engines.network.transport.admission import AUDIT, Admission, AuditLog
from splitft.engines.network.transport.credentials import channel_credentials
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.identity import Identity
from splitft.engines.network.transport.listener import Listener
from tcp_proxy import Proxy

WELCOME = Welcome("", 0, "{}", (), (), "dummy_ids")
MB = 1 << 20
FIELDS = b"\x00\x01a\x01b" * 3000
FLOODS = {
    "continuation": frame(CONTINUATION, FIELDS, stream=1) * 4,
    "settings": frame(SETTINGS, struct.pack(">HI", 4, 65535)) * 256,
    "ping": frame(PING, bytes(8)) * 256,
    "reset": (frame(HEADERS, FIELDS[:5], 4, 1) + frame(RESET, bytes(4), stream=1)) * 64,
}
PROCESSES = multiprocessing.get_context("spawn")


class _Nobody:
    """In place of `Strangers`: gRPC alone."""

    def __init__(self, *given: Any) -> None:
        self.recognise = self.end = lambda peer: None
        self.close = self.look_now = lambda: None


def _static(identity: Identity) -> Any:
    folder = identity._folder
    pair = (folder / certs.SERVER_KEY).read_bytes(), (folder / certs.SERVER).read_bytes()
    return grpc.ssl_server_credentials([pair], (folder / certs.CA).read_bytes(), True)


def serve(pipe: Any, port: int, folder: Path, names: tuple[str, ...], tls: bool, alone: bool) -> None:
    """Serve in this process. Answers each word on the pipe with (clients in, CPU seconds, peak bytes)."""
    if alone:
        mock.patch.object(entrance, "Strangers", _Nobody).start()
        mock.patch.object(Identity, "credentials", _static).start()
        mock.patch.object(entrance, "CountingFront", lambda: None).start()
    door = Admission(names, {}, tls, AuditLog(folder, lambda line: None))
    own = folder / certs.SERVER_NAME if tls else None
    listener = Listener(f"127.0.0.1:{port}", own, door, WELCOME, 4 * MB)

    def use() -> None:
        while event := listener.events.get():
            if event.kind == "said":
                listener.used(event)
                listener.send(event.name, b"used")  # as a step is answered; it carries the acknowledgement

    threading.Thread(target=use, daemon=True).start()
    pipe.send(listener.port)
    while pipe.recv() != "end":
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
        times = os.times()
        pipe.send((len(listener._peers.connected()), times.user + times.system, peak))
    listener.close(0)


class Server:
    """A server process."""

    def __init__(
        self, folder: Path, names: tuple[str, ...], port: int = 0, tls: bool = True, alone: bool = False
    ):
        self.pipe, other = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=serve, args=(other, port, folder, names, tls, alone))
        self.process.start()
        self.port = int(self.pipe.recv())

    def ask(self) -> tuple[int, float, int]:
        self.pipe.send("how")
        return self.pipe.recv()  # type: ignore[no-any-return]

    def end(self) -> None:
        self.pipe.send("end")
        self.process.join()


class LoopDialler(Dialler):
    """A dialler in a loop that many share."""

    loop: asyncio.AbstractEventLoop

    def _start(self) -> None:
        self._loop = self.loop
        self._dialling = asyncio.run_coroutine_threadsafe(self._dial(), self._loop)


def knock(port: int, a_second: int) -> None:
    """Make bare TCP connects from another address, each open for a second."""
    made: list[socket.socket] = []
    began, done = time.monotonic(), 0
    while True:
        while done < (time.monotonic() - began) * a_second:
            done += 1
            with suppress(OSError):
                one = socket.socket()
                one.setblocking(False)
                one.bind(("127.0.0.2", 0))
                made.append(one)
                one.connect(("127.0.0.1", port))
        while len(made) > a_second:
            made.pop(0).close()
        time.sleep(0.005)


def join(clients: int, connects: int) -> None:
    folder = Path(tempfile.mkdtemp())
    certs.create_authority(folder)
    names = tuple(f"client-{i}" for i in range(clients))
    for name in names:
        certs.add_client(folder, name)
    LoopDialler.loop = asyncio.new_event_loop()
    threading.Thread(target=LoopDialler.loop.run_forever, daemon=True).start()
    for rate in (0, connects):
        port = free_port()
        proxy = Proxy(port)
        proxy.delay_seconds = 0.1
        address = f"localhost:{proxy.port}"
        diallers = [
            LoopDialler(address, channel_credentials(address, folder / name, False), name, "", 4 * MB)
            for name in names
        ]
        time.sleep(3.0)
        attacker = PROCESSES.Process(target=knock, args=(port, rate), daemon=True)
        if rate:
            attacker.start()
        server = Server(folder, names, port)
        began = time.monotonic()
        while (there := server.ask()[0]) < clients and time.monotonic() - began < 90:
            time.sleep(0.2)
        seconds, audit = time.monotonic() - began, folder / AUDIT
        _, cpu, peak = server.ask()
        server.end()
        lines = audit.read_text().splitlines() if audit.exists() else []
        print(
            f"{there} of {clients} in after {seconds:.1f} s, {rate} bare connects a second; {len(lines)} "
            f"audit lines, {sum('certificate' in line for line in lines)} of certificates; server "
            f"{cpu:.1f} CPU s, {peak / MB:.0f} MB at most",
            flush=True,
        )
        if rate:
            attacker.kill()
        for dialler in diallers:
            dialler._dialling.cancel()
        audit.unlink(missing_ok=True)
        proxy.close()


def cost(megabytes: int, repeats: int) -> None:
    folder = Path(tempfile.mkdtemp())
    certs.create_authority(folder)
    certs.add_client(folder, "alice")
    figures: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeats):
        for alone in (False, True):
            server = Server(folder, ("alice",), alone=alone)
            address = f"localhost:{server.port}"
            credentials = channel_credentials(address, folder / "alice", False)
            dialler = Dialler(address, credentials, "alice", "", 4 * MB)
            session = dialler.incoming.get(timeout=30).session  # type: ignore[union-attr]
            before = server.ask()[1]
            for _ in range(megabytes):
                dialler.send(session, os.urandom(MB))
                while dialler._link and dialler._link.session.waiting_bytes > 4 * MB:
                    time.sleep(0.001)
            dialler.close(30)
            figures[alone].append((server.ask()[1] - before) / megabytes * 1e3)
            server.end()
    door, alone_ = (statistics.median(figures[alone]) for alone in (False, True))
    print(
        f"CPU ms a MB: door {door:.3f}, gRPC's TLS alone {alone_:.3f}, ratio {door / alone_:.3f}; {figures}"
    )


def flood(port: int, kind: str, seconds: float) -> None:
    def one() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(OSError):
                made = RawConnection(port)
                made.greet()
                if kind == "continuation":
                    made.socket.sendall(frame(HEADERS, FIELDS[:5], stream=1))
                while time.monotonic() < end:
                    made.socket.sendall(FLOODS[kind])

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def floods(seconds: float) -> None:
    for kind in FLOODS:
        for alone in (False, True):
            server = Server(Path(tempfile.mkdtemp()), ("alice",), tls=False, alone=alone)
            before = server.ask()[2]
            attacker = PROCESSES.Process(target=flood, args=(server.port, kind, seconds))
            attacker.start()
            attacker.join()
            growth = server.ask()[2] - before
            server.end()
            print(
                f"{kind}, {'gRPC alone' if alone else 'the door'}: {growth / MB:.1f} MB more at most",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("join", "cost", "floods"))
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--connects", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    if given.what == "join":
        join(given.clients, given.connects)
    elif given.what == "cost":
        cost(given.megabytes, given.repeats)
    else:
        floods(given.seconds)


if __name__ == "__main__":
    main()
