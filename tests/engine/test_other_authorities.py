"""Certificates of a company's own authority, made by the real openssl: chains, names, lists, refusals."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openssl import Corporate, needs_openssl
from splitft.engines.network.control import WIRE, End, Refused, Welcome
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.certs import CA, CLIENT, CLIENT_KEY, CRL, SERVER, SERVER_KEY
from splitft.engines.network.transport.client_names import CLIENT_NAMES, read_client_names
from splitft.engines.network.transport.credentials import channel_credentials
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.identity import read_server_files
from splitft.engines.network.transport.listener import Listener
from splitft.errors import LostError, NetworkError

pytestmark = needs_openssl
NAMES = ("alice", "bob")
ALICE = "/O=Hospital A/CN=Hospital A Research Gateway"
BOTH = "root.pem", "issuing.pem"


def server_folder(made: Corporate, folder: Path) -> Path:
    """The server's folder: its own chain, the authorities of clients, their lists, and the names."""
    folder.mkdir()
    made.issue("server", "/O=Hospital group/CN=splitft", "DNS:localhost,DNS:splitft.group.example")
    (folder / SERVER).write_text(made.text("server.pem"))
    (folder / SERVER_KEY).write_text(made.text("server.key"))
    (folder / CA).write_text(made.text(*BOTH))
    (folder / CRL).write_text(made.lists("root", "issuing"))
    (folder / CLIENT_NAMES).write_text(
        "alice: DNS:gateway.hospital-a.example\nbob: [CN:Hospital B, EMAIL:ml@hospital-b.example]\n"
    )
    return folder


def client_folder(made: Corporate, folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / CLIENT).write_text(made.text(f"{name}.pem"))
    (folder / CLIENT_KEY).write_text(made.text(f"{name}.key"))
    (folder / CA).write_text(made.text("root.pem"))
    return folder


Meet = Callable[..., Any]


@pytest.fixture
def meet(tmp_path: Path) -> Iterator[Meet]:
    """Starts a listener once, dials it, and returns the first item or state that tells something."""
    made: list[Any] = []

    def call(server: Path, name: str, certs: Path | None, *, ca: Path | None = None, **given: Any) -> Any:
        if not made:
            door = Admission(NAMES, {}, True, AuditLog(tmp_path, lambda text: None))
            made.append(Listener("127.0.0.1:0", server, door, Welcome(), 1 << 20))
        heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        credentials = channel_credentials("localhost:1", certs, False, ca=ca)
        address = f"localhost:{made[0].port}"
        dialler = Dialler(address, credentials, name, "", 1 << 20, heard.put, sink=heard.put, **given)
        made.append(dialler)
        return heard.get(timeout=60), heard

    yield call
    for one in reversed(made):
        one.close(0)


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_an_intermediate_issues_for_server_and_clients_and_revokes(
    kind: str, tmp_path: Path, meet: Meet
) -> None:
    """A client's corporate name stands for its name in the job; its revocation ends the open connection."""
    made = Corporate(tmp_path / "group", kind)
    server = server_folder(made, tmp_path / "server")
    made.issue("alice", ALICE, "DNS:gateway.hospital-a.example")
    own = client_folder(made, tmp_path / "alice", "alice")
    answer, heard = meet(server, "alice", own)
    assert isinstance(answer, Welcome), answer
    assert isinstance(meet(server, "bob", own)[0], Refused)  # its certificate is alice's
    names = (server / CLIENT_NAMES).read_text()
    (server / CLIENT_NAMES).write_text(names.replace("gateway", "other"))
    end = WIRE.decode(heard.get(timeout=60))
    assert isinstance(end, End) and "its certificate is no longer that of this name" in end.reason
    while not isinstance(heard.get(timeout=60), Refused):  # as it dials again
        pass
    (server / CLIENT_NAMES).write_text(names)
    answer, heard = meet(server, "alice", own)
    assert isinstance(answer, Welcome)
    made.revoke("alice")
    (server / CRL).write_text(made.lists("root", "issuing"))
    end = WIRE.decode(heard.get(timeout=60))
    assert isinstance(end, End) and "its certificate was revoked" in end.reason
    answer, _ = meet(server, "alice", own)
    assert isinstance(answer, Refused) and "revoked" in answer.reason and not answer.again


def test_a_client_says_why_there_is_no_way_in(tmp_path: Path, meet: Meet) -> None:
    """As far as gRPC tells: host, authority, a name that is nobody's, a missing list, an ended one."""
    made, other = Corporate(tmp_path / "group"), Corporate(tmp_path / "other")
    server = server_folder(made, tmp_path / "server")
    made.issue("alice", ALICE, "DNS:gateway.hospital-a.example")
    made.issue("eve", "/CN=alice", "DNS:eve.example")
    for name, year in (("late", 2020), ("early", 2090)):
        dates = ("-startdate", f"{year}0101000000Z", "-enddate", f"{year}0201000000Z")
        made.issue(name, ALICE, f"DNS:{name}.example", *dates)
    own = client_folder(made, tmp_path / "alice", "alice")
    # Permanent causes end the client, whose error has exit code 6.
    answer, _ = meet(server, "alice", own, expected="other.example")
    assert isinstance(answer, LostError) and "its certificate is not for other.example" in str(answer)
    (tmp_path / "other.pem").write_text(other.text("root.pem"))
    answer, _ = meet(server, "alice", own, ca=tmp_path / "other.pem")
    assert isinstance(answer, LostError) and "an authority that this client does not trust" in str(answer)
    assert answer.exit_code == 6
    answer, _ = meet(server, "alice", client_folder(made, tmp_path / "eve", "eve"))
    assert isinstance(answer, Refused) and "is not that of this name" in answer.reason  # by names.yaml
    for name, words in (("late", "ended on 2020-02-01"), ("early", "is valid from 2090-01-01")):
        with pytest.raises(NetworkError, match=words):
            channel_credentials("localhost:1", client_folder(made, tmp_path / name, name), False)
    # A client without a certificate, and one whose authority has no list.
    answer, _ = meet(server, "alice", None, ca=own / CA)
    assert "does not accept this client's certificate" in answer
    (server / CRL).write_text(made.lists("root"))
    answer, _ = meet(server, "alice", own)
    assert isinstance(answer, Refused)
    assert "revoked.pem has no list of its certificate's authority" in answer.reason


def test_an_intermediate_that_the_root_revokes_is_not_served(tmp_path: Path) -> None:
    made = Corporate(tmp_path / "group")
    server = server_folder(made, tmp_path / "server")
    read_server_files(server, True)
    made.revoke("issuing", by="root")
    (server / CRL).write_text(made.lists("root", "issuing"))
    with pytest.raises(NetworkError, match=r"an authority that revoked\.pem revokes .*group issuing"):
        read_server_files(server, True)


@pytest.mark.parametrize(("hours", "told"), [(2, True), (720, False)])
def test_a_list_that_is_due_anew_is_told(hours: int, told: bool, tmp_path: Path) -> None:
    """It still counts; the operator hears each day that a newer one is due."""
    made, said = Corporate(tmp_path / "group"), list[str]()
    server = server_folder(made, tmp_path / "server")
    (server / CRL).write_text(made.lists("root", "issuing", hours=hours))
    door = Admission(NAMES, {}, True, AuditLog(tmp_path, said.append))
    listener = Listener("127.0.0.1:0", server, door, Welcome(), 1 << 20)
    try:
        listener._entrance.remind({}, said.append)
    finally:
        listener.close(0)
    found = [line for line in said if "revoked.pem ends on" in line and "copy a newer one" in line]
    assert bool(found) is told


@pytest.mark.parametrize(("text", "words"), [
    ("alice: Hospital A", "write CLIENT: KIND:NAME"), ("alice: IP:192.0.2.1", "where KIND is CN, DNS, URI"),
    ("- alice", "write CLIENT: CN:NAME"), ("alice: CN:A\nbob: CN:A", "CN:A is given to alice and to bob"),
    ("Alice: CN:A", "write CLIENT"), ("alice: [CN:A, CN:", "cannot be read"),
])  # fmt: skip
def test_names_that_cannot_be_used_are_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / CLIENT_NAMES).write_text(text)
    with pytest.raises(NetworkError, match=words):
        read_client_names(tmp_path / CLIENT_NAMES)
    assert read_client_names(tmp_path / "nowhere.yaml") is None
