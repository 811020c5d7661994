"""Strangers: which connections count as such, and which refusals are written down."""

from __future__ import annotations

import socket
import threading

import pytest

from splitft.engines.network.transport import strangers as module
from splitft.engines.network.transport.strangers import Connection, Strangers


def test_a_client_that_leaves_before_anybody_looked_is_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is first seen as it ends, and is closed by its owner before it can be hung up on."""
    monkeypatch.setattr(module, "SCAN_SECONDS", 60.0)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        looked = threading.Event()
        look = Strangers._look

        def watched(self: Strangers) -> list[Connection]:
            found = look(self)
            looked.set()
            return found

        monkeypatch.setattr(Strangers, "_look", watched)
        strangers = Strangers(port, lambda address, reason: said.append(reason))
        assert looked.wait(30)  # from now on the thread sleeps
        with socket.create_connection(("127.0.0.1", port)) as client:
            taken, _ = server.accept()
            peer = client.getsockname()
            strangers.recognise(peer)
            monkeypatch.setattr(module, "hang_up", lambda connection: taken.close())
            strangers.end(peer)
        strangers.look_now()
        strangers.close()
    assert said == []
