"""Who comes in over a network: real connections to a real listener, with real certificates."""

from __future__ import annotations

import json
import queue
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from raw_http2 import CONTINUATION, HEADERS, PING, SETTINGS, RawConnection, frame
from splitft.engines.network.aggregator_link import dial_aggregator
from splitft.engines.network.control import WIRE, End, Refused, Welcome
from splitft.engines.network.transport import certs
from splitft.engines.network.transport.admission import AUDIT, Admission, AuditLog
from splitft.engines.network.transport.credentials import channel_credentials
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.identity import Identity
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.strangers import borrowed
from splitft.errors import LostError
from tcp_proxy import Proxy

NAMES = ("alice", "bob")
ALL = (*NAMES, "carol")
WELCOME = Welcome("", 0, "{}", (), (), "dummy_ids")
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    certs.create_authority(folder)
    for name in NAMES:
        certs.add_client(folder, name)
    return folder


class Server:
    """A listener and what it wrote about whom it refused."""

    def __init__(self, folder: Path, authority: Path | None, token: str = "") -> None:
        self.said: list[str] = []
        self.folder = folder
        tokens = dict.fromkeys(ALL, token) if token else {}
        door = Admission(ALL, tokens, authority is not None, AuditLog(folder, self.said.append))
        own = authority and authority / certs.SERVER_NAME
        self.listener = Listener("127.0.0.1:0", own, door, WELCOME, LIMIT)
        self.address = f"localhost:{self.listener.port}"

    def audit(self) -> list[dict[str, str]]:
        path = self.folder / AUDIT
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_audit(self, reason: str = "") -> dict[str, str]:
        """Return the last line with this reason: on a busy machine a handshake before may have failed."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if lines := [line for line in self.audit() if reason in line["refused"]]:
                return lines[-1]
            time.sleep(0.02)
        raise AssertionError(f"no audit line: {self.audit()}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def make(authority: Path | None, token: str = "") -> Server:
        started.append(Server(tmp_path, authority, token))
        return started[-1]

    yield make
    for server in started:
        server.listener.close(0)


def dial(
    server: Server, name: str, credentials: Any, token: str = "", seconds: float = 10.0, **given: Any
) -> Any:
    """Return the server's answer, None where there is none in that time."""
    dialler = Dialler(server.address, credentials, name, token, LIMIT, **given)
    try:
        return dialler.incoming.get(timeout=seconds)
    except queue.Empty:
        return None
    finally:
        dialler.close(0)


def own(authority: Path, name: str) -> Any:
    return channel_credentials("localhost:1", authority / name, False)


def test_a_client_with_its_certificate_comes_in(authority: Path, start: Callable[..., Server]) -> None:
    server = start(authority)
    answer = dial(server, "alice", own(authority, "alice"))
    assert isinstance(answer, Welcome)
    assert server.listener.events.get(timeout=5).kind == "joined"
    assert not server.audit()


def other_name(authority: Path, folder: Path) -> tuple[str, Any]:
    return "bob", own(authority, "alice")


def foreign_authority(authority: Path, folder: Path) -> tuple[str, Any]:
    certs.create_authority(folder / "foreign")
    certs.add_client(folder / "foreign", "alice")
    made = folder / "foreign" / "alice"
    (made / certs.CA).write_bytes((authority / certs.CA).read_bytes())  # it trusts the server all the same
    return "alice", channel_credentials("localhost:1", made, False)


def no_certificate(authority: Path, folder: Path) -> tuple[str, Any]:
    return "alice", grpc.ssl_channel_credentials((authority / certs.CA).read_bytes())


def plaintext(authority: Path, folder: Path) -> tuple[str, Any]:
    return "alice", None


def expired(authority: Path, folder: Path) -> tuple[str, Any]:
    copy = folder / "copy"
    copy.mkdir()
    for name in (certs.CA, certs.CA_KEY):
        (copy / name).write_bytes((authority / name).read_bytes())
    made = certs.add_client(copy, "alice", days=-0.02)
    files = [(made / name).read_bytes() for name in (certs.CA, certs.CLIENT_KEY, certs.CLIENT)]
    return "alice", grpc.ssl_channel_credentials(*files)  # `splitft client` looks at the date itself


LEFT = "left before it had said who it is"  # gRPC does not tell a server more


@pytest.mark.parametrize(("who", "reason", "told"), [
    (other_name, "certificate is not that of this name", ""),
    (foreign_authority, LEFT, "does not accept this client's certificate"),
    (no_certificate, LEFT, "does not accept this client's certificate"),
    (plaintext, LEFT, "it asks for TLS"),
    (expired, LEFT, "does not accept this client's certificate"),
])  # fmt: skip
def test_impostors_are_refused_with_an_audit_line(
    who: Callable[[Path, Path], tuple[str, Any]],
    reason: str,
    told: str,
    authority: Path,
    start: Callable[..., Server],
    tmp_path: Path,
) -> None:
    server, heard = start(authority), queue.SimpleQueue[Any]()
    name, credentials = who(authority, tmp_path)
    dialler = Dialler(server.address, credentials, name, "", LIMIT, on_state=heard.put, sink=heard.put)
    try:
        answer = heard.get(timeout=30)
        assert told in answer if told else isinstance(answer, Refused)
    finally:
        dialler.close(0)
    assert server.wait_for_audit(reason)["address"] == "127.0.0.1"
    assert server.listener.events.empty(), "somebody heard of it"


def test_a_client_ends_where_the_certificate_of_the_server_is_none_for_it(
    authority: Path, start: Callable[..., Server], tmp_path: Path
) -> None:
    """Another host name, an unknown authority, no TLS: one line each, and no dialling for ever."""
    server, open_server = start(authority), start(None)
    certs.create_authority(tmp_path / "foreign")
    certs.add_client(tmp_path / "foreign", "alice")
    ours, theirs = own(authority, "alice"), own(tmp_path / "foreign", "alice")
    for place, credentials, expected, words in (
        (server, ours, "other.example", "its certificate is not for other.example"),
        (server, theirs, "", "an authority that this client does not trust"),
        (open_server, ours, "", "it speaks no TLS"),
    ):
        answer = dial(place, "alice", credentials, expected=expected)
        assert isinstance(answer, LostError) and words in str(answer)


def test_certificates_that_no_longer_count_end_their_open_connections(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    """One is revoked, one expires; their clients hear why and end, and the third trains on."""
    folder = tmp_path / "authority"
    certs.create_authority(folder)
    server = start(folder)
    made: dict[str, Dialler] = {}
    try:
        for name, seconds in (("alice", 86400), ("carol", 86400), ("bob", 5)):
            certs.add_client(folder, name, days=seconds / 86400)
            made[name] = Dialler(server.address, own(folder, name), name, "", LIMIT)
            assert isinstance(made[name].incoming.get(timeout=30), Welcome)
        certs.revoke(folder, "alice")
        for name, cause in (("alice", "revoked"), ("bob", "expired")):
            end = WIRE.decode(made[name].incoming.get(timeout=30))
            assert isinstance(end, End) and not end.ok
            assert (
                end.reason.startswith("this client is turned away, its certificate") and cause in end.reason
            )
        answer = made["alice"].incoming.get(timeout=30)  # dialling again it is not let in, either
        assert isinstance(answer, Refused) and not answer.again and "revoked" in answer.reason
        lines = {(line["name"], line["refused"].split(" (")[0]) for line in server.audit()}
        assert lines >= {("alice", "its certificate was revoked"), ("bob", "its certificate has expired")}
        assert made["carol"].incoming.empty()
    finally:
        for dialler in made.values():
            dialler.close(0)


def test_a_renewed_certificate_is_used_by_a_server_that_runs(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    """Rotation: the authority is made anew under a running server; new clients come in, old ones do not."""
    folder, old = tmp_path / "authority", tmp_path / "old"
    certs.create_authority(folder)
    certs.add_client(folder, "alice").rename(old)
    server = start(folder)
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.unlink()
    certs.create_authority(folder)
    certs.add_client(folder, "alice")
    assert isinstance(dial(server, "alice", own(folder, "alice")), Welcome)
    assert isinstance(dial(server, "alice", channel_credentials("localhost:1", old, False)), LostError)


def test_a_local_user_finds_no_way_behind_the_tls(authority: Path, start: Callable[..., Server]) -> None:
    """With client certificates nothing but gRPC listens; without, what is inside is this user's alone."""
    before = listening()
    server = start(authority)
    assert listening() - before == {server.listener.port}
    open_server = start(None)
    assert listening() - before == {server.listener.port, open_server.listener.port}
    front = open_server.listener._entrance._front
    assert front is not None and front.folder.stat().st_mode & 0o077 == 0


def listening() -> set[int]:
    """The ports at which this process listens."""
    found = set()
    for path in Path("/dev/fd").iterdir():
        with suppress(OSError), borrowed(int(path.name)) as used:
            if used.family in (socket.AF_INET, socket.AF_INET6) and used.getsockopt(
                socket.SOL_SOCKET, socket.SO_ACCEPTCONN
            ):
                found.add(used.getsockname()[1])
    return found


@pytest.mark.parametrize(("kind", "payload"), [
    (CONTINUATION, b"\x00\x01a\x01b" * 3000), (SETTINGS, struct.pack(">HI", 4, 65535)), (PING, bytes(8)),
], ids=["continuation", "settings", "ping"])  # fmt: skip
def test_a_stranger_ends_after_a_few_frames(kind: int, payload: bytes, start: Callable[..., Server]) -> None:
    """HTTP/2 frames that gRPC takes in without an end, where no client certificate is asked for."""
    server = start(None)
    made = RawConnection(server.listener.port)
    made.greet()
    if kind == CONTINUATION:
        made.socket.sendall(frame(HEADERS, b"\x00\x01a\x01b", stream=1))
    words, sent = frame(kind, payload, stream=1 if kind == CONTINUATION else 0), 0
    with pytest.raises(OSError):
        while sent < 64 << 20:  # what the kernel holds for both ends is less
            made.socket.sendall(words * (1 + 20_000 // len(words)))
            sent += len(words)
    made.close()
    assert isinstance(dial(server, "alice", None), Welcome)


def test_connections_without_a_word_keep_nobody_out(authority: Path, start: Callable[..., Server]) -> None:
    """A thousand stay open, from another address; clients 200 ms away come in, and the log stays short."""
    server = start(authority)
    proxy = Proxy(server.listener.port)
    proxy.delay_seconds = 0.1
    idle = []
    try:
        for _ in range(1000):
            made = socket.socket()
            made.bind(("127.0.0.2", 0))
            with suppress(OSError):
                made.connect(("127.0.0.1", server.listener.port))
            idle.append(made)
        server.address = f"localhost:{proxy.port}"
        assert isinstance(dial(server, "alice", own(authority, "alice"), seconds=60), Welcome)
    finally:
        proxy.close()
        for made in idle:
            made.close()
    # A dialler that another test has left may knock at a port that is used again: it leaves by itself.
    lines = [line for line in server.audit() if not line["refused"].startswith("it left before")]
    assert lines and {line["address"] for line in lines} == {"127.0.0.2"} and len(lines) < 5, lines


@pytest.mark.slow
def test_a_hundred_thousand_connects_take_few_lines(start: Callable[..., Server], tmp_path: Path) -> None:
    """They come from one address; from another a revoked client knocks every second: each time counts."""
    folder = tmp_path / "authority"
    certs.create_authority(folder)
    certs.add_client(folder, "alice")
    certs.revoke(folder, "alice")
    server = start(folder)
    knocks, end = 0, 0.0
    for i in range(100_000):
        to, stranger = ("127.0.0.1", server.listener.port), ("127.0.0.2", 0)
        with suppress(OSError), socket.create_connection(to, timeout=5, source_address=stranger):
            pass
        if time.monotonic() > end:
            knocks, end = knocks + 1, time.monotonic() + 1
            assert isinstance(dial(server, "alice", own(folder, "alice"), seconds=60.0), Refused), i
    server.listener.close(0)
    lines = server.audit()
    assert len(lines) <= 100
    assert max(int(line.get("count", 1)) for line in lines if line["name"] == "alice") == knocks


@pytest.mark.parametrize(("name", "token"), [
    ("mallory", "0123456789abcdef"), ("alice", ""), ("alice", "0123456789abcdeX"),
    ("../../etc", "0123456789abcdef"), ("alice\x00", "0123456789abcdef"), ("a" * 4096, "0123456789abcdef"),
], ids=repr)  # fmt: skip
def test_without_tls_names_and_tokens_are_checked(
    name: str, token: str, start: Callable[..., Server]
) -> None:
    server = start(None, token="0123456789abcdef")
    answer = dial(server, name, None, token)
    assert isinstance(answer, Refused) and not answer.again
    assert server.listener.events.empty()
    line = server.wait_for_audit()
    assert len(line["name"]) <= 4 * 64 and "0123456789abcde" not in json.dumps(line)
    assert isinstance(dial(server, "alice", None, "0123456789abcdef"), Welcome)


def test_a_server_without_certificates_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="splitft certs init"):
        Identity(tmp_path, True, lambda address, reason: None)


def test_only_an_aggregator_is_taken_for_one(
    authority: Path, start: Callable[..., Server], tmp_path: Path
) -> None:
    """A server that names itself as its job's aggregator is handed nothing."""
    served = start(authority)
    made = certs.add_aggregator(authority)
    assert {path.name for path in made.iterdir()} == {certs.CA, certs.CRL, certs.SERVER, certs.SERVER_KEY}
    said: list[str] = []

    def meet(port: int, folder: Path) -> Any:
        dialler = dial_aggregator(f"localhost:{port}", "alice", folder, False, "", said.append)()
        try:
            return dialler.incoming.get(timeout=5)
        except queue.Empty:
            return None
        finally:
            dialler.close(0)

    refusal = meet(served.listener.port, authority / "alice")
    assert isinstance(refusal, LostError) and "shows no certificate of an aggregator" in str(refusal)
    assert served.listener.events.empty()
    door = Admission(("server", *NAMES), {}, True, AuditLog(tmp_path, said.append))
    listener = Listener("127.0.0.1:0", made, door, WELCOME, LIMIT)
    try:
        assert isinstance(meet(listener.port, authority / "alice"), Welcome)
    finally:
        listener.close(0)
