"""Who comes in over a network: real connections to a real listener, with real certificates."""

from __future__ import annotations

import json
import queue
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from splitft.engines.network.aggregator_link import dial_aggregator
from splitft.engines.network.control import Refused, Welcome
from splitft.engines.network.transport import certs
from splitft.engines.network.transport import tls_front as front
from splitft.engines.network.transport.admission import AUDIT, Admission, AuditLog
from splitft.engines.network.transport.certs import channel_credentials
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.listener import Listener

NAMES = ("alice", "bob")
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
        tokens = dict.fromkeys(NAMES, token) if token else {}
        door = Admission(NAMES, tokens, authority is not None, AuditLog(folder, self.said.append))
        self.listener = Listener("127.0.0.1:0", authority, door, WELCOME, LIMIT)
        self.address = f"localhost:{self.listener.port}"

    def audit(self) -> list[dict[str, str]]:
        path = self.folder / AUDIT
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_audit(self) -> dict[str, str]:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if lines := self.audit():
                return lines[-1]
            time.sleep(0.02)
        raise AssertionError("no audit line")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def make(authority: Path | None, token: str = "") -> Server:
        started.append(Server(tmp_path, authority, token))
        return started[-1]

    yield make
    for server in started:
        server.listener.close(0)


def dial(server: Server, name: str, credentials: Any, token: str = "", seconds: float = 10.0) -> Any:
    """Return the server's answer, None where there is none in that time."""
    dialler = Dialler(server.address, credentials, name, token, LIMIT)
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


@pytest.mark.parametrize(("who", "reason"), [
    (other_name, "certificate is not that of this name"),
    (foreign_authority, "unable to get local issuer certificate"),
    (no_certificate, "peer did not return a certificate"),
    (plaintext, "wrong version number|http request"),
    (expired, "certificate has expired"),
])  # fmt: skip
def test_impostors_are_refused_with_an_audit_line(
    who: Callable[[Path, Path], tuple[str, Any]],
    reason: str,
    authority: Path,
    start: Callable[..., Server],
    tmp_path: Path,
) -> None:
    server = start(authority)
    name, credentials = who(authority, tmp_path)
    answer = dial(server, name, credentials, seconds=2.0)
    assert answer is None or isinstance(answer, Refused)
    line = server.wait_for_audit()
    assert any(word in line["refused"].lower().replace("_", " ") for word in reason.split("|")), line
    assert line["address"]
    assert server.listener.events.empty(), "somebody heard of it"


def test_a_certificate_is_refused_as_soon_as_it_is_revoked(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    folder = tmp_path / "authority"
    certs.create_authority(folder)
    certs.add_client(folder, "alice")
    server = start(folder)
    assert isinstance(dial(server, "alice", own(folder, "alice")), Welcome)
    certs.revoke(folder, "alice")
    server.listener.events.get(timeout=5)
    assert dial(server, "alice", own(folder, "alice"), seconds=2.0) is None
    assert "revoked" in server.wait_for_audit()["refused"]


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
    assert dial(server, "alice", channel_credentials("localhost:1", old, False), seconds=2.0) is None


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


def test_keys_are_readable_by_their_owner_alone(authority: Path) -> None:
    for path in authority.rglob("*.key"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_server_without_certificates_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="splitft certs init"):
        front.server_context(tmp_path)
    assert ssl.HAS_TLSv1_3


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

    assert meet(served.listener.port, authority / "alice") is None
    assert said and served.listener.events.empty()
    door = Admission(("server", *NAMES), {}, True, AuditLog(tmp_path, said.append))
    listener = Listener("127.0.0.1:0", made, door, WELCOME, LIMIT)
    try:
        assert isinstance(meet(listener.port, authority / "alice"), Welcome)
    finally:
        listener.close(0)
