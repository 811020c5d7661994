"""The doors of a party: what strangers get of them, what they cost where they are not asked for."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from network_sites import run_sites
from network_threads import three_sites
from raw_http2 import PING, RawConnection, frame
from splitft import Callback
from splitft.common.notices import Notice
from splitft.engines.network.transport.health import ask_health
from splitft.errors import JobError, NetworkError
from splitft.history import RoundRecord, read_history
from splitft.running.plane.plane import Plane, own_address

grpc = pytest.importorskip("grpc")
health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
health_pb2_grpc = pytest.importorskip("grpc_health.v1.health_pb2_grpc")
metrics_pages = pytest.importorskip("metrics_pages")

NAMES = ["anna", "bert", "cleo"]


class Doors(Plane):
    """A plane that knows the ports of its doors."""

    def __init__(self, party: str = "server", **options: Any) -> None:
        self.told: list[Notice] = []
        given = {"health": "0", "metrics": "0"} | options
        super().__init__(party, show=lambda text: self.told.append(Notice.of(text)), **given)

    def port(self, event: str) -> int:
        (port,) = [told.fields["port"] for told in self.told if told.event == event]
        return cast(int, port)


@pytest.fixture
def doors() -> Iterator[Doors]:
    with Doors() as made:
        yield made


def test_figures_at_the_end_of_a_run_are_those_of_its_history(tmp_path: Path) -> None:
    """Each page is read after each round, and at the end, with differential privacy spent at the clients."""
    setting = three_sites(
        tmp_path, NAMES, method="fed_lora", labels="server", cuts=1, eval_every=1, rounds=3,
        padding_free="auto", max_grad_norm=0.1, dp={"epsilon": 8.0},
    )  # fmt: skip
    pages: list[Any] = []

    class Reader(Callback):
        def read(self, holds: Callable[[Any], bool]) -> None:
            while not holds(page := metrics_pages.scrape(plane.port("metrics"))):
                time.sleep(0.05)
            pages.append(page)

        def on_round_end(self, job: Any, record: RoundRecord) -> None:
            """Callbacks of a user are called before the plane's: the round before is told."""
            if record.round:
                self.read(lambda page: page("rounds_total") == record.round - 1)

        def on_train_end(self, job: Any, summary: Any) -> None:
            self.read(lambda page: page("phase", phase="done") == 1)

    with ExitStack() as stack:
        plane = stack.enter_context(Doors(health=None))
        own = {name: stack.enter_context(Doors("client", health=None)) for name in NAMES}
        said = run_sites(
            setting, tmp_path, server={"plane": plane}, client=lambda name: {"plane": own[name]},
            callbacks=[Reader()],
        )  # fmt: skip
        sites = {name: metrics_pages.scrape(own[name].port("metrics")) for name in NAMES}
    history = read_history(tmp_path / "run")
    for record, page in zip(history, pages, strict=True):
        assert page("loss") == record["loss"] and page("perplexity") == record["perplexity"]
        assert page("epsilon") == record["epsilon"]
        for name in NAMES:
            assert page("client_loss", client=name) == record["clients"][name]["loss"]
    end, bytes_ = pages[-1], Counter[tuple[str, str]]()
    for record in history:
        for way, kinds in record["bytes"].items():
            bytes_.update({(way, kind): count for kind, count in kinds.items()})
    told = {(dict(labels)["direction"], dict(labels)["kind"]): value
            for labels, value in end.named("transferred_bytes_total").items()}  # fmt: skip
    assert told == dict(bytes_)
    assert end("rounds_total") == 3 and end("steps_total") == 3 * 2 * 3
    assert end("duration_seconds_total", phase="training") == pytest.approx(
        sum(record["round_seconds"] for record in history)
    )
    for name, page in sites.items():
        assert page("round") == 3 and page("epsilon") == history[-1]["clients"][name]["epsilon"]
        assert (
            f"own loss {page('loss'):.3f}" in said
            and f"own held-out perplexity {page('perplexity'):.2f}" in said
        )
        assert f"epsilon {page('epsilon'):.3g}" in said


def test_without_options_nothing_is_opened_imported_or_wrapped() -> None:
    plane, say = Plane("client"), print
    lines, nothing = cast(Any, object()), cast(Any, None)
    with plane:
        assert plane.counting(say) is say and plane.of_client(lines, nothing) is lines
        assert plane.of_server(nothing, nothing, nothing, nothing) == []
    code = (
        "import sys, splitft.launch.cli, splitft.running.serve, splitft.running.join\n"
        "import splitft.running.aggregator\n"
        "print(sorted({'prometheus_client', 'grpc_health.v1'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("text", [":9464", "host", "127.0.0.1:", "0.0.0.0:70000", "a/b:1", "-1", ""])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(JobError, match="write a port for this machine alone"):
        own_address("--metrics", text)


def test_a_port_alone_is_of_this_machine_and_another_host_is_warned_of() -> None:
    assert own_address("--metrics", "9464") == "127.0.0.1:9464"
    assert own_address("--metrics", "[::1]:9464") == "[::1]:9464"
    with Doors(health=None, metrics="0.0.0.0:0") as made:
        (warning,) = [told for told in made.told if told.event == "metrics"]
        assert warning.level == "warning" and "names of clients" in warning
        request = urllib.request.Request(
            f"http://127.0.0.1:{made.port('metrics')}/metrics", headers={"Host": "server.example"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # as Prometheus elsewhere names it
            assert answer.status == 200


@pytest.mark.parametrize(("option", "words"), [("health", "--health"), ("metrics", "--metrics")])
def test_an_address_in_use_is_told_and_the_other_door_is_closed(option: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        made = Doors(**{option: port})
        with pytest.raises(NetworkError, match=f"in use.*{words}"), made:
            pass
    if option == "metrics":
        assert "no answer" in ask_health(f"127.0.0.1:{made.port('health')}", 1)


def test_a_page_in_a_browser_cannot_read_by_a_name_of_its_own(doors: Doors) -> None:
    port = doors.port("metrics")
    for host, code in ((f"localhost:{port}", 200), ("[::1]", 200), (f"evil.example:{port}", 403), ("", 403)):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                found = answer.status
        except urllib.error.HTTPError as error:
            found = error.code
        assert found == code, host
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30)


def test_connections_without_a_request_block_no_scrape_for_long(doors: Doors) -> None:
    """More than are taken at a time, half of a request each: they end, and figures are told again."""
    port, idle = doors.port("metrics"), []
    for _ in range(20):
        idle.append(socket.create_connection(("127.0.0.1", port)))
        with suppress(OSError):
            idle[-1].sendall(b"GET /met")
    with suppress(OSError):
        idle[0].sendall(b"a" * 100_000)  # a head without an end
    deadline = time.monotonic() + 60
    while True:
        with suppress(OSError):
            metrics_pages.scrape(port)
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for one in idle:
        one.close()


def test_health_tells_strangers_one_word_and_takes_little_from_them(doors: Doors) -> None:
    """Frames without an end are cut off, idle connections end, and neither keeps the answer from others."""
    port = doors.port("health")
    address = f"127.0.0.1:{port}"
    assert ask_health(address, 30) == "NOT_SERVING"
    flood = RawConnection(port)
    flood.greet()
    words, sent = frame(PING, bytes(8)) * 1000, 0
    with pytest.raises(OSError):
        while sent < 64 << 20:
            flood.socket.sendall(words)
            sent += len(words)
    flood.close()
    idle = []
    for _ in range(100):
        made = socket.socket()
        made.bind(("127.0.0.2", 0))
        with suppress(OSError):
            made.connect(("127.0.0.1", port))
        idle.append(made)
    doors.takes_clients()
    deadline = time.monotonic() + 60
    while ask_health(address, 5) != "SERVING":
        assert time.monotonic() < deadline
    for made in idle:
        made.close()


def test_whoever_watches_health_is_told_of_a_change(doors: Doors) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{doors.port('health')}") as channel:
        words = health_pb2.HealthCheckResponse
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == words.NOT_SERVING
        doors.takes_clients()
        assert next(watch).status == words.SERVING
    with grpc.insecure_channel(f"127.0.0.1:{doors.port('health')}") as channel:
        unknown = health_pb2.HealthCheckRequest(service="other")
        assert (
            next(health_pb2_grpc.HealthStub(channel).Watch(unknown, timeout=60)).status
            == words.SERVICE_UNKNOWN
        )
