"""`splitft server` and `splitft client` as processes on loopback, every client behind a proxy of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from splitft import Job
from splitft.job import dump_job

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from tcp_proxy import Proxy


class Link:
    """What lies between one machine and the others. rtt_ms: there and back. mbit: each way; 0: no limit."""

    def __init__(self, mbit: float, rtt_ms: float) -> None:
        self.mbit, self.rtt_ms = mbit, rtt_ms

    def __str__(self) -> str:
        return f"{self.mbit:g} Mbit/s, {self.rtt_ms:g} ms" if self.mbit else "none"

    @property
    def bytes_per_second(self) -> float:
        return self.mbit * 1e6 / 8

    def lay(self, proxies: Sequence[Proxy]) -> None:
        """Let these proxies be such links from now on, each for itself."""
        for proxy in proxies:
            proxy.bytes_per_second, proxy.delay_seconds = self.bytes_per_second, self.rtt_ms / 2000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Processes:
    """A job's server and clients while they run. Ends them on the way out.

    data: {client: file}; None: the client's share of the job's data set. server_threads: of torch; a client
    has one.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        data: Mapping[str, Path | None],
        folder: Path,
        *,
        server_threads: int = 1,
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.history = folder, folder / "run" / "history.jsonl"
        job = Job(**{"privacy": "server_reads", **settings, "output_dir": str(folder / "run")})
        dump_job(job, folder / "job.yaml")
        port, splitft = free_port(), [sys.executable, "-m", "splitft.launch"]
        self.proxies = [Proxy(port) for _ in data]
        commands = [[*splitft, "server", str(folder / "job.yaml"), "--listen", f"127.0.0.1:{port}"]]
        for (name, file), proxy in zip(data.items(), self.proxies, strict=True):
            commands.append([
                *splitft, "client", "--server", f"127.0.0.1:{proxy.port}", "--name", name,
                *(["--data", str(file)] if file else ["--job-data"]),
                "--folder", str(folder / name), "--accept", "first",
            ])  # fmt: skip
        self._running: list[subprocess.Popen[bytes]] = []
        for number, command in enumerate(commands):
            threads = 1 if number else server_threads
            environment = os.environ | {"OMP_NUM_THREADS": str(threads), "NO_COLOR": "1"}
            with (folder / f"{number}.log").open("wb") as log:
                started = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
                self._running.append(started)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        for proxy in self.proxies:
            proxy.close()

    @property
    def pids(self) -> list[int]:
        """The processes' ids: the server's, then every client's."""
        return [process.pid for process in self._running]

    def wait_until_ready(self) -> None:
        """Return when every client takes part: its part of the model is loaded, its state restored."""
        members = self.folder / "run" / "members.json"
        while not members.exists() or any(
            member["standing"] != "training" for member in json.loads(members.read_text()).values()
        ):
            self._check("all clients are ready")
            time.sleep(0.02)

    def cpu_seconds(self) -> list[float]:
        """Return the user and system seconds of the server and of every client so far."""
        times = [psutil.Process(process.pid).cpu_times() for process in self._running]
        return [float(used.user + used.system) for used in times]

    def record_of(self, round_: int, *, look_every: float = 0.002) -> dict[str, Any]:
        """Wait for a round's end and return its record. look_every: seconds from one look to the next."""
        while True:
            lines = self.history.read_bytes().split(b"\n")[:-1] if self.history.exists() else []
            if len(lines) > round_:
                record: dict[str, Any] = json.loads(lines[round_])
                return record
            self._check(f"round {round_}")
            time.sleep(look_every)

    def _check(self, before: str) -> None:
        """End where a process has ended."""
        for number, process in enumerate(self._running):
            if process.poll() is not None:
                said = (self.folder / f"{number}.log").read_text(errors="replace")
                raise SystemExit(f"a process has ended before {before}:\n{said[-3000:]}")
