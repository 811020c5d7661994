"""The operator's socket: `operator.sock` in a run's folder, for its owner alone, while the server runs."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from splitft.errors import NetworkError
from splitft.running.live import LIVE

SOCKET = "operator.sock"
MOST_BYTES = 1 << 20  # of a request or an answer
SECONDS = 5.0  # for a request to come
ANSWER_SECONDS = 90.0  # for an answer: the server may compute first

Answer = dict[str, Any]
Ask = Callable[[Mapping[str, Any]], Answer]


class OperatorSocket:
    """Answers requests, one JSON object a connection. ask: follows a request; called in another thread.

    A status also has what `live.json` says. Where the socket cannot be made, the run goes on without it.
    """

    def __init__(self, folder: Path, ask: Ask, notice: Callable[[str], None]) -> None:
        self._folder, self._ask = folder, ask
        self._socket: socket.socket | None = None
        try:
            self._socket = self._bound()
        except OSError as error:
            notice(f"there is no {SOCKET}, for `splitft operator`: {error.strerror or error}")
        else:
            threading.Thread(target=self._serve, name="splitft-operator", daemon=True).start()

    def __enter__(self) -> OperatorSocket:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
            (self._folder / SOCKET).unlink(missing_ok=True)

    def _bound(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        # Bound where nobody else can enter, and moved once it is closed to others. The umask would do it at
        # once, and change what other threads write meanwhile.
        with tempfile.TemporaryDirectory(prefix=".operator-", dir=self._folder) as closed:
            path = Path(closed) / SOCKET
            with address_of(path) as address:
                made.bind(address)
            path.chmod(0o600)
            made.listen(4)
            path.replace(self._folder / SOCKET)  # also that of a server that was killed: the folder is locked
        return made

    def _serve(self) -> None:
        while self._socket is not None:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with suppress(OSError, ValueError), connection:
                connection.settimeout(SECONDS)
                request = json.loads(_read(connection))
                answer = self._answer(request if isinstance(request, dict) else {})
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def _answer(self, request: Mapping[str, Any]) -> Answer:
        answer = self._ask(request)
        if request.get("do") == "status":
            with suppress(OSError, ValueError):
                answer["run"] = json.loads((self._folder / LIVE).read_text(encoding="utf-8"))
        return answer


def ask_server(run: Path, request: Mapping[str, Any]) -> Answer:
    """Send a request to the server that is at work in a run's folder; return the answer.

    run: the folder, or the socket. Raises NetworkError where no server answers there.
    """
    path = run if run.name == SOCKET or run.is_socket() else run / SOCKET
    try:
        with socket.socket(socket.AF_UNIX) as connection, address_of(path) as address:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(address)
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer: Any = json.loads(_read(connection))
    except (OSError, ValueError) as error:
        raise NetworkError(
            f"no server answers at {path} ({getattr(error, 'strerror', None) or error}): name the output_dir "
            "of a `splitft server` that runs on this machine, as its owner"
        ) from None
    if not isinstance(answer, dict):
        raise NetworkError(f"what answers at {path} is no server of splitft")
    return answer


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Give a path that a socket's address has room for: 107 bytes."""
    if len(os.fsencode(path)) < 100:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _read(connection: socket.socket) -> bytes:
    """Return one line. Raises ValueError where it is too long."""
    came = b""
    while not came.endswith(b"\n") and (more := connection.recv(1 << 16)):
        came += more
        if len(came) > MOST_BYTES:
            raise ValueError("it sends too much")
    return came
