"""The log of refusals, room for the files of connections, and why there is none."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from splitft.engines.network.transport.admission import AUDIT, Admission, AuditLog
from splitft.engines.network.transport.no_answer import explain
from splitft.engines.network.transport.room import make_room

NAMES = ("alice", "bob")


def test_room_is_made_for_the_files_of_clients() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert not make_room(500, 1).notice
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 500
        if hard < 1 << 30:
            assert f"{hard + 1} clients" in (line := make_room(hard + 1, 1).notice) and " fit; " in line
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_log_of_refusals_is_short_and_forgets_no_client(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, lambda line: None)
    door = Admission(NAMES, {}, True, log)
    for i in range(20_000):
        log(f"192.0.2.{i % 3}", "it connected and left without a word")
        if i % 1000 == 0:
            door.refuse("its certificate was revoked", "alice", "192.0.2.9")
    for i in range(3000):  # names and addresses without end
        door.refuse("no client of this job is called so", f"name-{i}", f"198.51.{i // 250}.{i % 250}")
        door.refuse("its certificate was revoked", "bob", f"198.51.{i // 250}.{i % 250}")
    log.flush()
    lines = [json.loads(line) for line in (tmp_path / AUDIT).read_text().splitlines()]
    assert len([line for line in lines if line["name"] not in NAMES]) <= 2 * (2 * 201 + 3)
    assert sum(line.get("count", 1) for line in lines if line["name"] == "alice") == 1 + 20
    newest = {(line["address"], line["name"]): line.get("count", 1) for line in lines}
    assert sum(count for (_, name), count in newest.items() if name == "bob") == 3000
    assert newest["192.0.2.0", ""] == 6667


@pytest.mark.parametrize(("details", "words", "final"), [
    ("errors resolving x:1: [field:hostname lookup error:address lookup failed]", "no address of x", False),
    ("DNS resolution failed for x:1: C-ares status is not ARES_SUCCESS", "no address of x", False),
    ("Ssl handshake failed: CERTIFICATE_VERIFY_FAILED: certificate has expired", "has expired", True),
    ("failed to connect to all addresses; last error: connection refused", "", False),
    ("ipv4:192.0.2.1:3128: HTTP proxy returned response code 403", "refuses the way, with HTTP 403", False),
    ("ipv4:192.0.2.1:3128: HTTP proxy returned response code 407", "407: it asks for http://USER", False),
    ("Received http2 header with status: 502", "answers there with HTTP 502", False),
    ("upstream connect error or disconnect/reset before headers", "reaches no server of the run", False),
    ("no healthy upstream", "reaches no server of the run", False),
    ("UNIMPLEMENTED", "does not know SplitFT's path", False),
    ("Method not found!", "does not know SplitFT's path", False),
    ("UNAVAILABLE", "", False),
])  # fmt: skip
def test_a_client_says_why_there_is_no_connection(details: str, words: str, final: bool) -> None:
    reason, last = explain(details, "x")
    assert words in reason and last is final and bool(reason) == bool(words)
