"""Real processes on loopback: a server and its clients, killed and started again like by an init system."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from forks import start_command
from ports import free_port
from site_files import write_open_policy
from splitft import Job
from splitft.common.draining import DRAINED
from splitft.engines.network.transport.certs import add_aggregator, add_client, create_authority
from splitft.job import dump_job
from splitft.running.folder import is_complete

SERVER, AGGREGATOR = "server", "aggregator"


class Processes:
    """The server and the clients of a job; each writes what it says into a file of its own.

    aggregator: one takes part, in a process of its own. tls: with certificates on all sides. contained: each
    party is the first process of a namespace of its own.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        folder: Path,
        *,
        names: list[str],
        aggregator: bool = False,
        tls: bool = False,
        contained: bool = False,
        ends: Collection[int] = (0,),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.names, self.port = folder, names, free_port()
        self.output, self.contained = folder / "run", contained
        self.policy = write_open_policy(folder)
        self.everyone = [SERVER, *names, *([AGGREGATOR] if aggregator else [])]
        if aggregator:
            settings = {**settings, "network": {"aggregator": f"127.0.0.1:{free_port()}"}}
        self.job = Job(**{**settings, "output_dir": str(self.output)})
        dump_job(self.job, folder / "job.yaml")
        self.certs = folder / "certs" if tls else None
        if self.certs:
            create_authority(self.certs)
            add_aggregator(self.certs)
            for name in names:
                add_client(self.certs, name)
        self.ends = ends  # exit codes of a party at the end of its run
        self.running: dict[str, ForkServerProcess] = {}
        self.kills = 0
        self.late: set[str] = set()  # killed when the results were written: may have heard so, or not

    def arguments(self, who: str) -> list[str]:
        job, address = str(self.folder / "job.yaml"), f"127.0.0.1:{self.port}"
        own = self.certs and self.certs / who
        certs = ["--certs", str(own)] if own else []
        if who == SERVER:
            return [SERVER, job, "--listen", address, "--resume", *certs]
        kept = ["--folder", str(self.folder / who)]
        if who == AGGREGATOR:
            return [AGGREGATOR, job, *kept, *certs]
        return [
            "client",
            "--server",
            address,
            "--name",
            who,
            "--job-data",
            "--accept",
            "first",
            "--policy",
            str(self.policy),
            *kept,
            *certs,
        ]

    def start(self, who: str, points: str = "") -> None:
        inner = self.folder / f"{who}.pid"
        inner.unlink(missing_ok=True)
        self.running[who] = start_command(
            self.arguments(who),
            self.folder / f"{who}.log",
            points=points,
            contained=inner if self.contained else None,
        )

    def signal(self, who: str, number: int) -> None:
        """Send a signal to a party, from outside of its namespace."""
        inner = self.folder / f"{who}.pid"
        os.kill(int(inner.read_text()) if self.contained else self.running[who].pid or 0, number)

    def start_all(self, points: Mapping[str, str] | None = None) -> None:
        for who in self.everyone:
            self.start(who, (points or {}).get(who, ""))

    def kill(self, who: str) -> None:
        self.running[who].kill()
        self.running[who].join()

    def finish(self, seconds: float = 240.0, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for the end; whoever is killed starts again at once. Fails where a process ends by itself."""
        deadline = time.monotonic() + seconds
        while self.unfinished():
            meanwhile()
            for who, process in list(self.running.items()):
                if process.exitcode in (-signal.SIGKILL, DRAINED):
                    self.kills += 1
                    if who != SERVER and is_complete(self.output):
                        self.late.add(who)
                    self.start(who)
                elif process.exitcode not in (None, *self.ends):
                    raise AssertionError(f"{who} ended with {process.exitcode}:\n{self.said(who)}")
            if time.monotonic() > deadline:
                raise AssertionError("not done in time:\n" + "\n".join(map(self.said, self.running)))
            time.sleep(0.02)

    def unfinished(self) -> list[str]:
        """Who is to end by itself, and has not: not a client that, killed at the end, has no server."""
        free = self.late if self.running[SERVER].exitcode in self.ends else set()
        left = [who for who, process in self.running.items() if process.exitcode not in self.ends]
        return [who for who in left if who not in free]

    def said(self, who: str) -> str:
        log = self.folder / f"{who}.log"
        return f"--- {who}\n" + (log.read_text(errors="replace")[-3000:] if log.exists() else "")

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.join()
