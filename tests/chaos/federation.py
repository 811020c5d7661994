"""A Flower federation on loopback with real processes, started by the commands of docs/flower.md."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from commands import start_process
from ports import free_port
from repository import ROOT

APP = ROOT / "examples" / "flower"
LINK = "lab"


class Federation:
    """A SuperLink that lets registered SuperNodes in, and a SuperNode for each name."""

    def __init__(self, folder: Path, data: Mapping[str, str]) -> None:
        self.folder = folder
        self.data = data  # {name: file}
        self.port = free_port()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "flwr").mkdir()
        (folder / "keys").mkdir()
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
        }
        authority = folder / "certs" / "ca.pem"
        (folder / "flwr" / "config.toml").write_text(
            f'[superlink.{LINK}]\naddress = "127.0.0.1:{self.port}"\nroot-certificates = "{authority}"\n'
        )

    def start(self) -> None:
        """Make certificates and keys; start the SuperLink, register the SuperNodes' keys, start them."""
        self.call("splitft", "certs", "init", "--folder", "certs")
        self.start_link()
        for name in self.data:
            self.call("ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", f"keys/{name}")
            self.call("flwr", "supernode", "register", f"keys/{name}.pub", LINK, "--name", name)
        for name, path in self.data.items():
            self.start_node(name, f'name="{name}" data="{path}" accept="first"')

    def start_link(self) -> None:
        """Start the SuperLink, for the first time or again."""
        ready, log = "Application startup complete", self.folder / "superlink.log"
        before = log.read_text(errors="replace").count(ready) if log.exists() else 0
        self.spawn(
            "superlink", "flower-superlink", "--ssl-ca-certfile", "certs/ca.pem",
            "--ssl-certfile", "certs/server/server.pem", "--ssl-keyfile", "certs/server/server.key",
            "--enable-supernode-auth", "--disable-runtime-dependency-installation",
            "--database", "superlink.db", "--host", "127.0.0.1", "--port", str(self.port),
        )  # fmt: skip
        self.wait_for("superlink", ready, times=before + 1)

    def kill(self, who: str) -> None:
        """Kill the SuperLink or a SuperNode and all that it has started: its machine has lost its power."""
        for process in _family(self.running[who].pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.running[who].wait()

    def start_node(self, name: str, config: str) -> None:
        self.spawn(
            name, "flower-supernode", "--superlink", f"127.0.0.1:{self.port}",
            "--root-certificates", "certs/ca.pem", "--auth-supernode-private-key", f"keys/{name}",
            "--port", str(free_port()), "--node-config", config,
        )  # fmt: skip

    def run(self, job: Path, seconds: float = 180.0) -> None:
        """`flwr run`, until the run is over."""
        self.submit(job)
        self.running["run"].wait(seconds)

    def submit(self, job: Path) -> None:
        self.spawn("run", "flwr", "run", str(APP), LINK, "--stream", "--run-config", f'job="{job}"')

    def spawn(self, who: str, *command: str) -> None:
        with (self.folder / f"{who}.log").open("ab") as log:
            self.running[who] = self._popen(command, log)

    def call(self, *command: str) -> None:
        with (self.folder / "commands.log").open("ab") as log:
            assert self._popen(command, log).wait(60) == 0, self.said("commands")

    def _popen(self, command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return start_process(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for(self, who: str, text: str, seconds: float = 90.0, times: int = 1) -> None:
        deadline = time.monotonic() + seconds
        while (self.folder / f"{who}.log").read_text(errors="replace").count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} was not said:\n{self.said(who)}"
            time.sleep(0.2)

    def app_of(self, name: str) -> psutil.Process:
        """The ClientApp's process that a SuperNode has started."""
        below = psutil.Process(self.running[name].pid).children(recursive=True)
        return next(process for process in below if "flwr-clientapp" in " ".join(process.cmdline()))

    def said(self, *whose: str) -> str:
        logs = [self.folder / f"{who}.log" for who in whose or ("commands", *self.running)]
        return "\n".join(f"--- {log.stem}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)

    def stop(self) -> None:
        """End all processes, and those that they have started in sessions of their own."""
        found = {
            process.pid: process for started in self.running.values() for process in _family(started.pid)
        }
        for process in found.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for started in self.running.values():
            started.wait()


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
