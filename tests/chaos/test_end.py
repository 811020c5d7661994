"""The end of a run over a network: everyone hears of it, whoever is killed or away at that moment."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import AGGREGATOR, SERVER, Processes

from cases import rest_slow
from reference import make_setting
from splitft.running.folder import is_complete

NAMES = ["client-0", "client-1"]
COMPLETE = "run.complete"  # the server has written its results, and told nobody


@pytest.fixture
def processes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Processes]:
    made = make(tmp_path, aggregator=request.param, tls=request.param)
    yield made
    made.stop()


def make(folder: Path, *, aggregator: bool = False, tls: bool = False, **network: float) -> Processes:
    setting: dict[str, Any] = make_setting(folder, "llama", num_hidden_layers=3) | {
        "clients": 2, "rounds": 2, "local_steps": 1, "warmup_steps": 0, "cuts": [1, 2], "labels": "server",
        "network": network,
    }  # fmt: skip
    return Processes(setting, folder, names=NAMES, aggregator=aggregator, tls=tls)


def told(processes: Processes) -> list[str]:
    """Who has heard of the end, by the server's own log; the last is that nobody else is to be told."""
    lines = [json.loads(line) for line in (processes.output / "steps.jsonl").read_text().splitlines()]
    return [line.get("client", "") for line in lines if line["event"] in ("told", "over")]


def check_whole(processes: Processes) -> None:
    assert is_complete(processes.output)
    assert (processes.output / "perplexity.png").stat().st_size > 0
    assert len(list((processes.output / "checkpoints").iterdir())) == 1  # for an extension


@pytest.mark.parametrize("processes", rest_slow([True, False], 1), indirect=True)
def test_a_server_killed_before_it_could_say_so_says_so_when_it_is_back(processes: Processes) -> None:
    processes.start_all({SERVER: f"{COMPLETE}:1:kill"})
    processes.finish()
    assert processes.kills == 1 and not processes.late
    assert sorted(told(processes)) == ["", *NAMES] and told(processes)[-1] == ""
    check_whole(processes)
    assert "is complete: nothing is left to do" in " ".join(processes.said(SERVER).split())
    processes.start(SERVER)  # everybody knows: it does not wait for them again
    processes.running[SERVER].join(30)
    assert processes.running[SERVER].exitcode == 0
    assert told(processes)[-1] == "" and len(told(processes)) == len(NAMES) + 1


@pytest.mark.parametrize("processes", [True], indirect=True)
@pytest.mark.parametrize("who", rest_slow(["client-1", AGGREGATOR], 1))
def test_who_is_killed_while_nobody_has_heard_hears_of_it(processes: Processes, who: str) -> None:
    """It ends by itself, without the state of the run: the server waits for it."""

    def kill_at_the_end() -> None:
        if is_complete(processes.output) and not processes.kills:
            processes.running[who].kill()

    processes.start_all({SERVER: f"{COMPLETE}:1:delay:2"})
    processes.finish(meanwhile=kill_at_the_end)
    assert processes.kills == 1
    processes.running[who].join(20)
    assert processes.running[who].exitcode == 0, processes.said(who)
    assert sorted(told(processes)) == ["", *NAMES]


@pytest.mark.parametrize("point", rest_slow(["checkpoint.written:5:kill", ""], 1))
def test_a_client_that_stays_away_is_waited_for_as_long_as_stated(tmp_path: Path, point: str) -> None:
    """Also one that is killed when the results are written, and its state for an extension is not."""
    processes = make(tmp_path, rejoin_seconds=3.0)
    try:
        processes.start_all({SERVER: f"{COMPLETE}:1:delay:2", "client-1": point})
        deadline = time.monotonic() + 60
        while not is_complete(processes.output) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not point:
            processes.kill("client-1")
        processes.running[SERVER].join(60)
        assert processes.running[SERVER].exitcode == 0, processes.said(SERVER)
        assert processes.running["client-1"].exitcode == -signal.SIGKILL
        assert told(processes) == ["client-0", ""]
        said = " ".join(processes.said(SERVER).split())
        assert "client-1 did not come to hear that the run is complete" in said
    finally:
        processes.stop()


@pytest.mark.slow
def test_a_server_that_is_stopped_after_the_results_leaves_them_whole(tmp_path: Path) -> None:
    """Killed between the last record and the picture: what is missing is made when it is back."""
    processes = make(tmp_path)
    try:
        processes.start_all()
        processes.finish()
        check_whole(processes)
        (processes.output / "perplexity.png").unlink()
        processes.start(SERVER)
        processes.running[SERVER].join(60)
        assert processes.running[SERVER].exitcode == 0
        check_whole(processes)
    finally:
        processes.stop()
