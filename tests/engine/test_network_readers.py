"""Clients that read nothing, or slowly: what waits for them is bounded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from siege import MARGIN, PATH, wait_for

from raw_http2 import RawConnection, grpc_prefix
from splitft.engines.network.control import PROTOCOL, SCHEMA, Hello, Welcome, packed
from splitft.engines.network.transport import link
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.delivery import Frame, Kind
from splitft.engines.network.transport.dialler import MAX_PAYLOAD, Dialler
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.peers import MOST_UNREAD
from tcp_proxy import Proxy


class Reluctant:
    """A listener, and a client that says hello and then reads nothing."""

    def __init__(self, folder: Path) -> None:
        self.limit = 1 << 20
        door = Admission(("mallory", "anna"), {}, False, AuditLog(folder, lambda line: None))
        self.listener = Listener("127.0.0.1:0", None, door, Welcome(job="{}"), self.limit)
        self.stop = threading.Event()
        self.session = ""

    def dial(self, again: bool) -> None:
        """Say hello, and send signs of life until the server hangs up; again and again."""
        while not self.stop.is_set():
            hello = Hello(PROTOCOL, "mallory", "", "ab" * 16, self.session, 0, SCHEMA)
            made = RawConnection(self.listener.port)
            made.call(PATH)
            for words in (Frame(Kind.HELLO, 0, 0, 0, packed(hello)), *[Frame(Kind.BEAT, 0, 0, 0)] * 10_000):
                said = words.encode()
                try:
                    made.data(grpc_prefix(len(said)) + said)
                except OSError:
                    break
                if self.stop.wait(0.05):
                    break
            made.close()
            if not again:
                return

    def wait_for(self, kind: str) -> Any:
        while True:
            event = self.listener.events.get(timeout=4 * MARGIN)
            if event.kind == "joined":
                self.session = event.session
            if event.kind == kind:
                return event


@pytest.fixture
def reluctant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Reluctant]:
    monkeypatch.setattr(link, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(link, "BEAT_SECONDS", 0.2)
    made = Reluctant(tmp_path)
    yield made
    made.stop.set()
    made.listener.close(0)


def test_who_never_reads_is_expelled_for_it(reluctant: Reluctant) -> None:
    """What fills its connection is bounded by that; it is noticed, and after three times it is enough."""
    dialling = threading.Thread(target=reluctant.dial, args=(True,), daemon=True)
    dialling.start()
    reluctant.wait_for("joined")
    reluctant.listener.send("mallory", bytes(reluctant.limit))
    assert "could be sent" in reluctant.wait_for("expelled").reason
    reluctant.stop.set()
    dialling.join(MARGIN)


def test_what_waits_for_one_that_never_reads_is_bounded(reluctant: Reluctant) -> None:
    dialling = threading.Thread(target=reluctant.dial, args=(False,), daemon=True)
    dialling.start()
    reluctant.wait_for("joined")
    assert wait_for(lambda: "mallory" in reluctant.listener._peers.connected())
    for _ in range(MOST_UNREAD + 1):
        reluctant.listener.send("mallory", bytes(reluctant.limit))
    assert "wait for it" in reluctant.wait_for("expelled").reason
    reluctant.stop.set()
    dialling.join(MARGIN)


def test_what_waits_for_one_that_is_away_is_bounded(reluctant: Reluctant) -> None:
    """It may be honest: when it is back it starts a new session, and is told everything again."""
    proxy = Proxy(reluctant.listener.port)
    dialler = Dialler(f"127.0.0.1:{proxy.port}", None, "mallory", "", MAX_PAYLOAD)
    try:
        first = dialler.incoming.get(timeout=MARGIN)
        proxy.cut()
        reluctant.wait_for("away")
        for _ in range(MOST_UNREAD + 1):
            reluctant.listener.send("mallory", bytes(reluctant.limit))
        proxy.mend()
        second = dialler.incoming.get(timeout=MARGIN)
        assert isinstance(first, Welcome) and isinstance(second, Welcome)
        assert first.session != second.session
        reluctant.listener.send("mallory", b"anew")
        assert dialler.incoming.get(timeout=MARGIN) == b"anew"
    finally:
        dialler.close(0)
        proxy.close()


def test_one_whose_messages_wait_is_not_read_from(reluctant: Reluctant) -> None:
    """What waits is at most twice the largest message, however much is sent; used ones make room."""
    dialler = Dialler(f"127.0.0.1:{reluctant.listener.port}", None, "anna", "", MAX_PAYLOAD)
    try:
        welcome = dialler.incoming.get(timeout=MARGIN)
        assert isinstance(welcome, Welcome)
        for number in range(20):
            dialler.send(welcome.session, bytes([number]) * (reluctant.limit // 2))
        held = [reluctant.wait_for("said")]
        while True:
            try:
                held.append(reluctant.listener.events.get(timeout=1.0))
            except queue.Empty:
                break
        assert 2 <= len(held) <= 4
        for number in range(len(held), 20):
            reluctant.listener.used(held.pop(0))
            held.append(reluctant.wait_for("said"))
            assert held[-1].payload[0] == number
    finally:
        dialler.close(0)
