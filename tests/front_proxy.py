"""A proxy before a server of this machine, with a configuration of `deploy/`."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ports import free_port


class FrontProxy:
    """Ends TLS at a free port; the subclass writes its configuration and starts it in a folder.

    Its lines about errors go to `error.log`, those about connections to `access.log`.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.folder = free_port(), folder

    def write(self, shipped: Path, changes: Mapping[str, str], more: Mapping[str, str] | None) -> None:
        """Write the shipped configuration with changes; it must hold the words that they replace."""
        text = shipped.read_text(encoding="utf-8")
        for old, new in {**changes, **(more or {})}.items():
            assert old in text, old
            text = text.replace(old, new)
        (self.folder / shipped.name).write_text(text, encoding="utf-8")

    def start(self, command: Sequence[str], ready: Callable[[], bool]) -> None:
        """Start it, and wait until it is ready."""
        with (self.folder / "error.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not ready():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        """What it has written about errors."""
        return (self.folder / "error.log").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(20)
