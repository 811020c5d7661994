"""A server process under siege: honest clients that wait, and helpers of those who attack it."""

from __future__ import annotations

import os
import queue
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from commands import start_process
from network_threads import Settings, follow
from ports import free_port
from splitft import Job
from splitft.engines.network.control import End
from splitft.engines.network.transport import certs
from splitft.engines.network.transport.credentials import channel_credentials
from splitft.engines.network.transport.entrance import METHOD, SERVICE
from splitft.engines.network.transport.peers import MOST_UNREAD
from splitft.engines.network.transport.strangers import MOST_STRANGERS
from splitft.job import dump_job
from splitft.running.prepare import assemble
from splitft.running.welcome import most_bytes
from splitft.wire.messages import Activations

HONEST = ["anna", "bert"]
HOSTILE = ["tiny", "total", "tensor", "slow", "late"]
STRANGER_COST = 1 << 18  # bytes of memory for the connection of one of them, TLS and HTTP/2 included
CLIENT_COST = 1 << 20
MARGIN = 10.0  # seconds that a busy machine may be late
PATH = f"/{SERVICE}/{METHOD}"


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
        # Of a client: unused payloads, one more on its way, payloads it has not taken, and its connection.
        client = (2 + MOST_UNREAD) * most_bytes(start) + CLIENT_COST
        self.cap = len(HONEST + HOSTILE) * client + MOST_STRANGERS * STRANGER_COST
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
        port = free_port()
        command = [
            sys.executable, "-m", "splitft.launch", "server", str(self.folder / "job.yaml"), "--listen",
            f"127.0.0.1:{port}", *(["--certs", str(self.certs / "server")] if self.certs else []),
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        with (self.folder / "server.log").open("wb") as log:
            self.process = start_process(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
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
        assert self.process.wait(60) == 9, self.said()  # complete, without the hostile
        return (self.output / "adapter" / "adapter_model.safetensors").read_bytes()

    def stop(self) -> None:
        self._lifted.set()
        self.process.kill()
        self.process.wait()


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 2 * MARGIN
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()
