"""Proxies on the way: nginx or Envoy before the server, and a proxy that clients go out by."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from connect_proxy import ConnectProxy
from envoy_proxy import Envoy, needs_envoy
from network_sites import run_sites
from network_threads import three_sites, together
from nginx import Nginx, needs_nginx
from ports import free_port
from run_files import adapter_of
from splitft.engines.network.control import Refused, Welcome
from splitft.engines.network.transport import certs
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.credentials import channel_credentials
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.tokens import TOKEN, TOKENS, TokenFile, make_token

NAMES = ("anna", "bert", "cleo")
MB = 1 << 20
BOTH = pytest.mark.parametrize("proxy_of", [
    pytest.param(Nginx, marks=needs_nginx, id="nginx"), pytest.param(Envoy, marks=needs_envoy, id="envoy"),
])  # fmt: skip


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority") / "certs"
    certs.create_authority(folder)
    for name in NAMES:
        make_token(folder, name)
    certs.add_client(folder, "alice")
    return folder


ProxyOf = type[Nginx] | type[Envoy]


class Receiver:
    """A listener that reads all that comes; bytes of payloads are counted."""

    def __init__(self, folder: Path, authority: Path, *, tls: bool) -> None:
        audit, tokens = AuditLog(folder, lambda text: None), TokenFile(authority / TOKENS, lambda text: None)
        door = Admission(("alice",), {}, True, audit) if tls else Admission(NAMES, {}, False, audit, tokens)
        own = authority / "server" if tls else None
        self.listener = Listener("127.0.0.1:0", own, door, Welcome(), 64 * MB)
        self.port, self.received = self.listener.port, 0
        threading.Thread(target=self._use, daemon=True).start()

    def _use(self) -> None:
        while (event := self.listener.events.get()).kind != "gone":
            if event.kind == "said":
                self.received += len(event.payload)
                self.listener.used(event)
                self.listener.send(event.name, b"used")

    def close(self) -> None:
        self.listener.gone("", "")
        self.listener.close(0)


@pytest.fixture
def open_server(authority: Path, tmp_path: Path) -> Iterator[Receiver]:
    with closing(Receiver(tmp_path, authority, tls=False)) as made:
        yield made


@pytest.fixture
def tls_server(authority: Path, tmp_path: Path) -> Iterator[Receiver]:
    with closing(Receiver(tmp_path, authority, tls=True)) as made:
        yield made


@pytest.fixture
def dial() -> Iterator[Callable[..., tuple[Dialler, queue.SimpleQueue[Any]]]]:
    """Dials, and puts all that a client is told into one queue: items and states of the connection."""
    made: list[Dialler] = []

    def call(address: str, credentials: Any, name: str, token: str = "") -> Any:
        heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        made.append(Dialler(address, credentials, name, token, 64 * MB, heard.put, sink=heard.put))
        return made[-1], heard

    yield call
    for dialler in made:
        dialler.close(0)


def through_proxy(authority: Path, name: str) -> tuple[Any, str, str]:
    """Credentials, name and token of a client that sees the proxy's certificate."""
    ca = channel_credentials("localhost:1", None, False, ca=authority / certs.CA)
    return ca, name, (authority / name / TOKEN).read_text().strip()


@BOTH
def test_a_run_behind_a_proxy_has_the_same_bytes_and_each_client_its_own_token(
    proxy_of: ProxyOf, authority: Path, tmp_path: Path
) -> None:
    """With the shipped configuration: TLS ends at the proxy, and a token is of one client alone."""
    setting = three_sites(tmp_path, NAMES, labels="server")
    plain = together(setting, tmp_path / "plain")
    (tmp_path / "behind").mkdir()
    port = free_port()
    proxy = proxy_of(tmp_path / "proxy", port, authority / "server")
    try:
        run_sites(
            setting, tmp_path / "behind", listen=f"127.0.0.1:{port}",
            server={"token_hashes": authority / TOKENS},
            client=lambda name: {"ca": authority / certs.CA, "token": through_proxy(authority, name)[2]},
            address=lambda name, _: f"localhost:{proxy.port}",
        )  # fmt: skip
    finally:
        proxy.stop()
    assert adapter_of(tmp_path / "behind" / "run") == adapter_of(tmp_path / "plain" / "run")
    lines = [
        [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        for folder in (plain, tmp_path / "behind" / "run")
    ]
    for one, other in zip(*lines, strict=True):
        assert one["bytes_up"] == other["bytes_up"] and one["bytes_down"] == other["bytes_down"]
        assert one["perplexity"] == other["perplexity"]
    log = (tmp_path / "proxy" / "access.log").read_text().splitlines()
    assert len(log) >= len(NAMES) and all("POST /splitft.Session/Exchange HTTP/2" in line for line in log)


@BOTH
def test_behind_a_proxy_another_clients_token_lets_nobody_in(
    proxy_of: ProxyOf, authority: Path, tmp_path: Path, open_server: Receiver, dial: Callable[..., Any]
) -> None:
    proxy = proxy_of(tmp_path / "proxy", open_server.port, authority / "server")
    try:
        credentials, _, token = through_proxy(authority, "anna")
        for name, wanted in (("bert", Refused), ("anna", Welcome)):
            _, heard = dial(f"localhost:{proxy.port}", credentials, name, token)
            assert isinstance(heard.get(timeout=60), wanted)
        # Once the server is gone, the proxy's answer is told, and the client dials on.
        open_server.close()
        _, heard = dial(f"localhost:{proxy.port}", credentials, "anna", token)
        until_told(heard, "HTTP 502" if proxy_of is Nginx else "reaches no server of the run behind it")
    finally:
        proxy.stop()


def until_told(heard: queue.SimpleQueue[Any], words: str) -> None:
    deadline = time.monotonic() + 60
    while words not in str(heard.get(timeout=max(0.0, deadline - time.monotonic()))):
        pass


@BOTH
def test_a_proxy_that_passes_another_path_on_is_told(
    proxy_of: ProxyOf, authority: Path, tmp_path: Path, dial: Callable[..., Any]
) -> None:
    changed = {"/splitft.Session/": "/other.Session/"}
    proxy = proxy_of(tmp_path / "proxy", free_port(), authority / "server", changed)
    try:
        credentials, name, token = through_proxy(authority, "anna")
        _, heard = dial(f"localhost:{proxy.port}", credentials, name, token)
        until_told(heard, "HTTP 404" if proxy_of is Nginx else "does not know SplitFT's path")
    finally:
        proxy.stop()


@BOTH
@pytest.mark.parametrize("shipped", [True, False])
def test_a_proxy_cuts_no_stream_with_the_shipped_limits_and_does_with_others(
    shipped: bool,
    proxy_of: ProxyOf,
    authority: Path,
    tmp_path: Path,
    open_server: Receiver,
    dial: Callable[..., Any],
) -> None:
    """12 MB of one client: with nginx's own limit of 1 MB, and a second of silence at Envoy, it breaks."""
    tighter = {
        Nginx: {"client_max_body_size 0;": ""},
        Envoy: {"stream_idle_timeout: 60s": "stream_idle_timeout: 1s"},
    }
    replaced = {} if shipped else tighter[proxy_of]
    proxy = proxy_of(tmp_path / "proxy", open_server.port, authority / "server", replaced)
    try:
        credentials, name, token = through_proxy(authority, "anna")
        dialler, heard = dial(f"localhost:{proxy.port}", credentials, name, token)
        session = heard.get(timeout=60).session
        for _ in range(4):
            dialler.send(session, bytes(3 * MB))
        if shipped:
            assert [heard.get(timeout=60) for _ in range(4)] == [b"used"] * 4
            assert open_server.received == 12 * MB
        else:
            until_told(heard, "dialling again")
            assert proxy_of is Envoy or "client intended to send too large" in proxy.log()
    finally:
        proxy.stop()


@needs_envoy
@pytest.mark.parametrize("hello", [b"", b"\x16\x03"], ids=["silent", "half a handshake"])
def test_envoy_hangs_up_on_a_stranger_that_says_nothing(
    hello: bytes, authority: Path, tmp_path: Path, open_server: Receiver
) -> None:
    shorter = {"transport_socket_connect_timeout: 10s": "transport_socket_connect_timeout: 1s"}
    proxy = Envoy(tmp_path / "proxy", open_server.port, authority / "server", shorter)
    try:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as stranger:
            stranger.sendall(hello)
            assert stranger.recv(1) == b""
    finally:
        proxy.stop()


@pytest.mark.parametrize("password", ["", "site:pass word"])
def test_a_client_goes_out_by_the_proxy_of_https_proxy(
    password: str, authority: Path, tls_server: Receiver, dial: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """HTTP CONNECT; TLS goes from end to end through it, and the client's certificate with it."""
    with closing(ConnectProxy(password)) as proxy:
        user = f"{password.replace(' ', '%20')}@" if password else ""
        monkeypatch.setenv("https_proxy", f"http://{user}127.0.0.1:{proxy.port}")
        address = f"localhost:{tls_server.port}"
        own = channel_credentials("localhost:1", authority / "alice", False)
        dialler, heard = dial(address, own, "alice")
        welcome = heard.get(timeout=60)
        assert isinstance(welcome, Welcome) and proxy.asked == [address]
        dialler.send(welcome.session, bytes(3 * MB))
        assert heard.get(timeout=60) == b"used" and proxy.up > 3 * MB
        # no_proxy names hosts that are dialled directly.
        monkeypatch.setenv("no_proxy", "localhost")
        _, heard = dial(address, own, "alice")
        until_told(heard, "a client called alice is connected already")
        assert proxy.asked == [address]


@pytest.mark.parametrize(("password", "allowed", "words"), [
    ("", False, "refuses the way, with HTTP 403"), ("site:secret", True, "USER:PASSWORD@HOST:PORT"),
])  # fmt: skip
def test_a_proxy_that_refuses_the_way_is_told(
    password: str, allowed: bool, words: str, authority: Path, dial: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with closing(ConnectProxy(password, allowed=allowed)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        own = channel_credentials("localhost:1", authority / "alice", False)
        _, heard = dial("localhost:50051", own, "alice")
        until_told(heard, words)
