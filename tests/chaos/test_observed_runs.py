"""Health and metrics of real processes: during a run, asked by a stranger, while the server drains, after."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import AGGREGATOR, SERVER, Processes

from forks import run_command
from party_logs import events, read_lines
from ports import free_port
from reference import make_setting
from splitft.common.checkpoint import FOLDER, load_checkpoint
from splitft.common.draining import DRAINED
from splitft.engines.network.transport.admission import AUDIT
from splitft.engines.network.transport.pem import certificates_in
from splitft.errors import NetworkError
from splitft.history import read_history
from splitft.running.operator_socket import ask_server

grpc = pytest.importorskip("grpc")
health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
health_pb2_grpc = pytest.importorskip("grpc_health.v1.health_pb2_grpc")
metrics_pages = pytest.importorskip("metrics_pages")

NAMES = ["client-0", "client-1", "client-2"]
LOCAL_STEPS = 2


class Watched(Processes):
    """Every party with a page of metrics and a log as JSON; server and aggregator with a port of health."""

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        super().__init__(settings, folder, names=NAMES, aggregator=True, tls=True)
        self.pages = {who: free_port() for who in self.everyone}
        self.health = {who: free_port() for who in (SERVER, AGGREGATOR)}

    def arguments(self, who: str) -> list[str]:
        log = ["--log-format", "json", "--log-file", str(self.folder / f"{who}.jsonl")]
        health = ["--health", str(self.health[who])] if who in self.health else []
        return [*super().arguments(who), *log, *health, "--metrics", str(self.pages[who])]

    def until(self, holds: Callable[[], Any], seconds: float = 120.0) -> Any:
        """Return what `holds` does, once that is something; it may raise while nothing answers."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if found := holds():
                    return found
            except (OSError, NetworkError):
                pass
            assert time.monotonic() < deadline, "\n".join(map(self.said, self.everyone))
            time.sleep(0.05)

    def page(self, who: str, round_: int) -> Any:
        """The page of a party once it tells of a round."""
        return self.until(lambda: (page := metrics_pages.scrape(self.pages[who]))("round") == round_ and page)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Watched]:
    setting = make_setting(tmp_path, "llama", num_hidden_layers=4) | {
        "clients": 3, "rounds": 5, "local_steps": LOCAL_STEPS, "cuts": [1, 2, 2], "eval_every": 1,
        "labels": "server",
    }  # fmt: skip
    made = Watched(setting, tmp_path)
    yield made
    made.stop()


def ask(port: int, service: str = "") -> str:
    """Ask the health service as any stranger may: without a certificate, by gRPC's own stub."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=30)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def test_a_run_is_watched_by_metrics_and_by_a_strangers_question(processes: Watched) -> None:
    processes.start_all({SERVER: "server.drain:1:delay:4", "client-0": "client.take:14:delay:4"})
    round_ = paused_after_a_round(processes)
    check_figures(processes, round_)

    # A stranger asks, is told one word, and is nobody whom the log of refusals has.
    for who in (SERVER, AGGREGATOR):
        assert {ask(processes.health[who]), ask(processes.health[who], "splitft.Session")} == {"SERVING"}
        with pytest.raises(grpc.RpcError) as refused:
            ask(processes.health[who], "of another program")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert run_command("operator", "health", str(processes.health[who])).returncode == 0
    assert not (processes.output / AUDIT).exists()

    # SIGTERM: the answer is another one at once, while the server has the others wait.
    server = processes.running[SERVER]
    os.kill(server.pid or 0, signal.SIGTERM)
    processes.until(lambda: ask(processes.health[SERVER]) == "NOT_SERVING")
    assert run_command("operator", "health", str(processes.health[SERVER])).returncode == 6
    server.join(30)
    assert server.exitcode == DRAINED

    # Started again while no client is there: it has gone on once, and waits.
    for name in NAMES:
        processes.kill(name)
    processes.start(SERVER)
    page = processes.until(
        lambda: (now := metrics_pages.scrape(processes.pages[SERVER]))("resumes_total") == 1 and now
    )
    assert page("rounds_total") == round_ and page("clients", state="training") == 0
    assert page("steps_total") == round_ * LOCAL_STEPS * len(NAMES)
    assert processes.until(lambda: ask(processes.health[SERVER]) == "SERVING")
    processes.finish()
    for who in processes.everyone:
        lines = read_lines(processes.folder / f"{who}.jsonl", "json")
        assert events(lines, "metrics") and events(lines, "end" if who != SERVER else "results")


def paused_after_a_round(processes: Watched) -> int:
    """Have the run wait between two rounds, the first or a later one over; return that round."""

    def status() -> dict[str, Any]:
        return ask_server(processes.output, {"do": "status"})

    processes.until(lambda: status()["round"] >= 1)
    assert "pauses" in ask_server(processes.output, {"do": "pause"})["told"]

    def stands() -> int:
        now, kept = status()["round"], load_checkpoint(processes.output / FOLDER)
        return now if kept is not None and kept.round == now else 0

    return int(processes.until(stands))


def check_figures(processes: Watched, round_: int) -> None:
    """What the pages say is what history, logs and certificates do."""
    history = read_history(processes.output)
    last = history[-1]
    assert last["round"] == round_ and len(history) == round_ + 1 and processes.certs is not None
    page = processes.until(
        lambda: (now := processes.page(SERVER, round_))("phase", phase="between rounds") == 1 and now
    )
    assert page("rounds_total") == round_ and page("job_rounds") == 5 and page("paused") == 1
    for name, key in (("loss", "loss"), ("perplexity", "perplexity"), ("accuracy_ratio", "accuracy")):
        assert page(name) == last[key]
    assert page("train_tokens_total") == sum(record["train_tokens"] for record in history)
    assert page("round_duration_seconds", phase="training") == last["round_seconds"]
    for way in ("up", "down"):
        kinds = Counter[str]()
        for record in history:
            kinds.update(record["bytes"][way])
        told = {dict(labels)["kind"]: value for labels, value in page.named("transferred_bytes_total").items()
                if ("direction", way) in labels}  # fmt: skip
        assert told == dict(kinds)
    assert page("clients", state="training") == len(NAMES) and page("clients", state="away") == 0
    assert page("steps_total") == round_ * LOCAL_STEPS * len(NAMES)
    assert page("waited_for_clients") == page("refusals_total") == page("draining") == 0
    assert page("events_total", event="client.takes_part", level="info") == len(NAMES)
    assert page.samples["process_resident_memory_bytes", frozenset()] > 1e7
    for name in NAMES:
        own, seen = processes.page(name, round_), last["clients"][name]
        assert page("client_loss", client=name) == seen["loss"]
        assert page("client_perplexity", client=name) == seen["perplexity"]
        assert page("client_steps_total", client=name) == round_ * LOCAL_STEPS
        up = page("client_transferred_bytes_total", client=name, direction="up")
        lines = read_lines(processes.folder / f"{name}.jsonl", "json")
        assert own("loss") == events(lines, "client.trained")[-1]["loss"]
        assert own("perplexity") == events(lines, "client.evaluated")[-1]["perplexity"]
        assert up and (own("transferred_bytes_total", direction="up") or 0) > 0
    averaged = processes.page(AGGREGATOR, round_)
    assert averaged("averages_total") == round_ and averaged("clients_with_updates") == len(NAMES)
    for who, told in ((SERVER, page), (AGGREGATOR, averaged)):
        (end,) = [one.not_valid_after_utc for one in certificates_in(processes.certs / who / "server.pem")]
        assert told("certificate_expiry_timestamp_seconds", file="server.pem") == end.timestamp()
