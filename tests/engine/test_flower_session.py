"""What the one Flower message carries, and what a server that was started by Flower lets in."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raw_http2 import CONTINUATION, HEADERS, RawConnection, frame
from splitft.engines.network.control import Refused, Welcome
from splitft.engines.network.transport import certs
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.credentials import channel_credentials
from splitft.engines.network.transport.dialler import Dialler
from splitft.engines.network.transport.listener import Listener
from splitft.errors import JobError, LostError, NetworkError

pytest.importorskip("flwr", reason="the extra [flower] is not installed")
from flwr.app import ConfigRecord, RecordDict

from splitft.launch.flower.client import take_part
from splitft.launch.flower.server import host_for_clients
from splitft.launch.flower.ticket import RECORD, Ticket, check_pin, make_authority

TOKENS = {"anna": "a" * 43, "bert": "b" * 43}
WELCOME = Welcome("", 0, "{}", (), (), "dummy_ids")


@pytest.fixture
def ticket(tmp_path: Path) -> Iterator[Ticket]:
    """Of a session that goes on."""
    authority = make_authority(tmp_path / "certs", "localhost")
    door = Admission(tuple(TOKENS), TOKENS, False, AuditLog(tmp_path, lambda text: None))
    listener = Listener("127.0.0.1:0", tmp_path / "certs" / "server", door, WELCOME, 1 << 20)
    yield Ticket("anna", f"localhost:{listener.port}", authority, TOKENS["anna"])
    listener.close(0)


def answer(ticket: Ticket, patience: float = 0.0) -> object:
    """What a client with this ticket gets; None where nothing comes."""
    credentials = channel_credentials(ticket.endpoint, None, False, ticket.authority.encode())
    dialler = Dialler(
        ticket.endpoint, credentials, ticket.name, ticket.token, 1 << 20, patience=patience
    )  # fmt: skip
    try:
        return dialler.incoming.get(timeout=20)
    finally:
        dialler.close(0)


def test_a_ticket_lets_its_own_client_in(ticket: Ticket) -> None:
    assert Ticket.read(ticket.content()) == ticket
    check_pin(ticket)
    assert isinstance(answer(ticket), Welcome)


@pytest.mark.parametrize(("name", "token"), [
    ("bert", TOKENS["anna"]), ("anna", TOKENS["bert"]), ("anna", ""), ("anna", "a" * 42), ("carl", ""),
    ("carl", TOKENS["anna"]),
])  # fmt: skip
def test_who_a_client_is_says_its_token(ticket: Ticket, name: str, token: str) -> None:
    refused = answer(replace(ticket, name=name, token=token))
    assert isinstance(refused, Refused)
    assert "token" in refused.reason


def test_a_stranger_ends_after_a_few_frames_behind_the_tls_of_a_session(ticket: Ticket) -> None:
    """No client certificate is asked for here: whoever reaches the port speaks HTTP/2 to it."""
    context = ssl.create_default_context(cadata=ticket.authority)
    context.set_alpn_protocols(["h2"])
    made = RawConnection(int(ticket.endpoint.rpartition(":")[2]), context)
    made.greet()
    made.socket.sendall(frame(HEADERS, b"\x00\x01a\x01b", stream=1))
    words, sent = 20 * frame(CONTINUATION, b"\x00\x01a\x01b" * 3000, stream=1), 0
    with pytest.raises(OSError):
        while sent < 64 << 20:  # what the kernel holds for both ends is less
            made.socket.sendall(words)
            sent += len(words)
    made.close()
    assert isinstance(answer(ticket), Welcome)


def test_another_server_is_noticed(ticket: Ticket, tmp_path: Path) -> None:
    foreign = replace(ticket, authority=make_authority(tmp_path / "other", "localhost"))
    with pytest.raises(NetworkError, match="does not show the certificate"):
        check_pin(foreign)
    assert isinstance(answer(foreign, patience=0.5), LostError)


def test_the_authority_of_a_session_signs_nothing_more(tmp_path: Path) -> None:
    make_authority(tmp_path / "certs", "server.example.org")
    assert not list(tmp_path.rglob(certs.CA_KEY))


@pytest.mark.parametrize("values", [
    {}, {"name": "anna"}, {"name": "anna", "endpoint": "x:1", "authority": "", "token": "t"},
    {"name": 1, "endpoint": "x:1", "authority": "a", "token": "t"},
    {"name": "anna", "endpoint": "x:1", "authority": "a" * 20_000, "token": "t"},
    {"name": "anna", "endpoint": "x:1", "authority": "a", "token": "t", "more": "m"},
])  # fmt: skip
def test_another_message_is_no_ticket(values: dict[str, str]) -> None:
    with pytest.raises(NetworkError, match="no invitation"):
        Ticket.read(RecordDict({RECORD: ConfigRecord(dict(values))}))
    with pytest.raises(NetworkError, match="no invitation"):
        Ticket.read(RecordDict())


@pytest.mark.parametrize(("settings", "problem"), [
    ({"name": "bert"}, "registered as anna"), ({"job-data": "yes"}, "--node-config job-data"),
    ({"partition-id": 0}, "--node-config partition-id"), ({}, "no data given"),
])  # fmt: skip
def test_a_node_that_is_set_up_wrongly_says_so(
    ticket: Ticket, settings: dict[str, object], problem: str
) -> None:
    with pytest.raises(JobError, match=problem):
        take_part(ticket, settings)


def test_an_open_server_says_where_it_is_reached() -> None:
    assert host_for_clients("127.0.0.1:0", "") == "127.0.0.1"
    assert host_for_clients("0.0.0.0:50051", "server.example.org:443") == "server.example.org"
    for listen, endpoint in (("0.0.0.0:50051", ""), ("127.0.0.1:0", "server.example.org")):
        with pytest.raises(JobError, match="endpoint"):
            host_for_clients(listen, endpoint)
