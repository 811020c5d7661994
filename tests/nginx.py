"""The nginx of this machine, if there is one, with the shipped configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ports import free_port
from repository import ROOT
from splitft.engines.network.transport.certs import SERVER, SERVER_KEY

SHIPPED = ROOT / "deploy" / "nginx.conf"
MAIN = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/splitft.conf;
}}
"""  # as Debian's nginx.conf includes conf.d


def find_nginx() -> str | None:
    """Return the binary, which Debian keeps out of a user's path."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


needs_nginx = pytest.mark.skipif(find_nginx() is None, reason="no nginx is installed here")


class Nginx:
    """nginx with TLS before a port of this machine.

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
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "splitft.example.org": "localhost",
            "/etc/nginx/splitft/server.pem": str(certs / SERVER),
            "/etc/nginx/splitft/server.key": str(certs / SERVER_KEY),
            "grpc://127.0.0.1:50051": f"grpc://127.0.0.1:{target}",
            "/var/log/nginx/splitft.log": str(folder / "access.log"),
            **(replaced or {}),
        }
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "splitft.conf").write_text(text, encoding="utf-8")
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder), encoding="utf-8")
        command = [
            str(find_nginx()),
            "-e",
            f"{folder}/error.log",
            "-p",
            str(folder),
            "-c",
            f"{folder}/nginx.conf",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not (folder / "nginx.pid").exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        """What nginx has written about errors."""
        path = self.folder / "error.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """End it, and its workers."""
        self.process.terminate()
        self.process.wait(20)
