"""The nginx of this machine, if there is one, with the shipped configuration."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from front_proxy import FrontProxy
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
    include {folder}/nginx.conf;
}}
"""  # as Debian's nginx.conf includes conf.d


def find_nginx() -> str | None:
    """Return the binary, which Debian keeps out of a user's path."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


needs_nginx = pytest.mark.skipif(find_nginx() is None, reason="no nginx is installed here")


class Nginx(FrontProxy):
    """nginx with TLS before a port of this machine.

    target: the server's port. certs: folder with server.pem and server.key. replaced: further changes of the
    shipped configuration.
    """

    def __init__(
        self, folder: Path, target: int, certs: Path, replaced: dict[str, str] | None = None
    ) -> None:
        super().__init__(folder)
        changes = {
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "splitft.example.org": "localhost",
            "/etc/nginx/splitft/server.pem": str(certs / SERVER),
            "/etc/nginx/splitft/server.key": str(certs / SERVER_KEY),
            "grpc://127.0.0.1:50051": f"grpc://127.0.0.1:{target}",
            "/var/log/nginx/splitft.log": str(folder / "access.log"),
        }
        self.write(SHIPPED, changes, replaced)
        (folder / "main.conf").write_text(MAIN.format(folder=folder), encoding="utf-8")
        words = ("-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/main.conf")
        self.start([str(find_nginx()), *words], (folder / "nginx.pid").exists)
