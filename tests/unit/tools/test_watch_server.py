"""The live page's server over HTTP: who gets in, what it sends, and how it ends."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from splitft.errors import JobError, NetworkError
from splitft.tools.watch.address import PageAddress
from splitft.tools.watch.app import PAGE
from splitft.tools.watch.beside import live_page
from splitft.tools.watch.feed import MOST_WAITING, Runs, Watcher
from splitft.tools.watch.server import PageServer
from watched_runs import add_round, live, record, write, write_run

CUTS = {"north": 3, "south": 4}
KIBIBYTES = 200


@contextmanager
def served(runs: Runs, **options: Any) -> Iterator[PageAddress]:
    """Serve a page in a thread."""
    address = PageAddress("127.0.0.1:0", **options)
    server = PageServer(runs, address.hosts, address.token)
    thread = threading.Thread(target=server.run, args=([address.socket],), daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.end()
        thread.join(30)
        assert not thread.is_alive()


def ask(
    address: PageAddress, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> http.client.HTTPResponse:
    """Send a request, and return the answer, whose body is not read."""
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for key, value in ({"Host": f"127.0.0.1:{address.port}"} | dict(headers or {})).items():
        connection.putheader(key, value)
    connection.endheaders()
    return connection.getresponse()


def event(answer: http.client.HTTPResponse) -> tuple[str, Any]:
    """Return the next event of a feed: its kind and its data."""
    kind = ""
    while line := answer.readline():
        if line.startswith(b"event: "):
            kind = line[7:].decode().strip()
        if line.startswith(b"data: "):
            return kind, json.loads(line[6:])["runs"]
    return "closed", {}


def test_a_watcher_gets_the_whole_state_then_what_changes_then_the_end(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [CUTS])
    with served(Runs([folder])) as address:
        first, second = ask(address, "/events"), ask(address, "/events")
        assert first.headers["Content-Type"].startswith("text/event-stream")
        kind, runs = event(first)
        assert kind == "whole" and runs["run"]["names"] == ["north", "south"]
        assert event(second) == ("whole", runs)
        add_round(folder, record(1, CUTS, 40.0))
        kind, changes = event(first)
        assert kind == "change" and [entry["round"] for entry in changes["run"]["more"]["rounds"]] == [1]
        assert event(second) == (kind, changes), "one look serves all"
        write(folder, "live.json", live(CUTS, round_=2))  # seen by the last look, if not before
    found = [event(first)]
    while found[-1][0] == "change":
        found.append(event(first))
    assert found[-1] == ("over", {}) and found[0][1]["run"]["set"]["status"]["round"] == 2


def test_only_readers_that_call_it_by_its_name_get_in(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [CUTS])
    with served(Runs([folder]), hosts=["lab.example"]) as address:
        for host in (
            f"localhost:{address.port}",
            "localhost",
            "127.0.0.1",
            "[::1]:80",
            "10.1.2.3",
            "LAB.example:99",
        ):
            assert ask(address, "/", {"Host": host}).status == 200, host
        for host in (
            "evil.example",
            f"evil.example:{address.port}",
            "localhost.evil.example",
            "",
            "127.0.0.1.nip.io",
        ):
            answer = ask(address, "/events", {"Host": host})
            assert answer.status == 421 and b"north" not in answer.read(), host
        for method in ("POST", "HEAD", "PUT", "DELETE", "OPTIONS"):
            assert ask(address, "/", method=method).status == 405
        assert ask(address, "/../server.py").status == 404 and ask(address, "/live.json").status == 404


def test_the_token_is_asked_for_where_data_are(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [CUTS])
    with served(Runs([folder]), ask_token=True) as address:
        assert len(address.token) >= 32 and address.url.endswith(f"/#token={address.token}")
        page = ask(address, "/")
        assert page.status == 200 and address.token.encode() not in page.read()
        for given in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {address.token[:-1]}"}):
            answer = ask(address, "/events", given)
            assert answer.status == 401 and b"north" not in answer.read()
        assert ask(address, f"/events?token={address.token}").status == 401, "it would stand in logs"
        answer = ask(address, "/events", {"Authorization": f"Bearer {address.token}"})
        assert answer.status == 200 and event(answer)[0] == "whole"


def test_the_page_is_small_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    with served(Runs([tmp_path], fixed=True)) as address:
        answers = {path: ask(address, path) for path in PAGE}
        bodies = {path: answer.read() for path, answer in answers.items()}
    for path, answer in answers.items():
        assert answer.status == 200
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert (answer.headers["X-Content-Type-Options"], answer.headers["Cache-Control"]) == (
            "nosniff",
            "no-store",
        )
        assert answer.headers["Content-Type"].split(";")[0] == PAGE[path][1]
    assert sum(map(len, bodies.values())) <= KIBIBYTES * 1024
    own = b"".join(body for path, body in bodies.items() if "uPlot" not in path)
    assert re.findall(rb"https?://(?!www.w3.org/2000/svg)", own) == []
    assert not re.search(
        rb"innerHTML|insertAdjacentHTML|document\.write|outerHTML|\beval\b|style=|onclick=", own
    )
    assert not re.search(rb"innerHTML|insertAdjacentHTML|\beval\(", bodies["/uPlot.iife.min.js"])


def test_a_watcher_that_falls_behind_gets_the_whole_state() -> None:
    watcher = Watcher(anew=False)
    for number in range(MOST_WAITING + 5):
        watcher.tell(b"%d" % number)
    assert watcher.anew and not watcher.events


def test_an_address_elsewhere_always_has_a_token() -> None:
    address = PageAddress("0.0.0.0:0")
    with closing(address.socket):
        assert address.token and address.is_open and "without TLS" in " ".join(address.told())
    for wrong in ("127.0.0.1", "host:", ":80", "a/b:80", "127.0.0.1:99999", "127.0.0.1:٣"):
        with pytest.raises(JobError, match="--listen"):
            PageAddress(wrong)
    with (
        closing(PageAddress("127.0.0.1:0").socket) as taken,
        pytest.raises(NetworkError, match="choose another"),
    ):
        PageAddress(f"127.0.0.1:{taken.getsockname()[1]}")


def test_the_page_of_a_run_is_served_beside_it_and_ends_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with live_page(folder, "127.0.0.1:0", console=Console(quiet=True)) as address:
        answer = ask(address, "/events")
        assert event(answer)[1]["run"]["status"]["state"] == "unknown"
        write_run(folder, [CUTS])
    deadline = time.monotonic() + 30
    kind, changes = event(answer)
    assert kind == "change" and changes["run"]["set"]["names"] == ["north", "south"], "the last look sees it"
    while kind != "over" and time.monotonic() < deadline:
        kind, _ = event(answer)
    assert kind == "over"
