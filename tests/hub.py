"""A stand-in of a hub's HTTP interface on the loopback, which records what is asked of it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)


@dataclass
class Hub:
    """Serves folders as models and as data sets; `gated` ids are refused as the hub refuses them."""

    folders: dict[str, Path]
    datasets: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)  # (method, path)

    def fetched(self, model: str) -> set[str]:
        """Files of a model whose bytes were asked for."""
        pattern = re.compile(rf"/{re.escape(model)}/resolve/[^/]+/(.+)")
        matches = [pattern.fullmatch(path) for method, path in self.requests if method == "GET"]
        return {match[1] for match in matches if match}


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve until the block ends; `hub.url` is the endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        folders = self.hub.datasets if path.startswith(("/datasets/", "/api/datasets/")) else self.hub.folders
        path = path.replace("/api/datasets/", "/api/models/").removeprefix("/datasets")
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+|[^/]+)(?:/(revision|tree)/([^/]+)(/.*)?)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+|[^/]+)/resolve/([^/]+)/(.+)", path)
        found = file or api
        if found is None:
            return self._refuse(404, "EntryNotFound")
        model = found[1]
        revision = (file[2] if file else api and api[3]) or "main"
        if model in self.hub.gated:
            return self._refuse(403, "GatedRepo")
        if model not in folders:
            return self._refuse(401, "RepoNotFound")
        if revision not in REVISIONS:
            return self._refuse(404, "RevisionNotFound")
        folder = folders[model]
        if file:
            return self._send_file(folder / file[3])
        names = sorted(p.name for p in folder.iterdir())
        if api and api[4]:  # a folder inside the model: these models have none
            return self._refuse(404, "EntryNotFound")
        if api and api[2] == "tree":
            entries = [
                {"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": n} for n in names
            ]
            return self._send(json.dumps(entries).encode(), {"Content-Type": "application/json"})
        info = {"id": model, "modelId": model, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
        return self._send(json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _send_file(self, path: Path) -> None:
        if not path.is_file():
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": COMMIT})
        body = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self._send(body, headers)
        start, last = int(wanted[1]), int(wanted[2] or len(body) - 1)
        headers["Content-Range"] = f"bytes {start}-{last}/{len(body)}"
        return self._send(body[start : last + 1], headers, 206)

    def _send(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        said = {"X-Error-Code": code, "X-Error-Message": code, "Content-Type": "application/json"}
        self._send(json.dumps({"error": code}).encode(), {**said, **(headers or {})}, status)
