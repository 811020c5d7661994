"""The operator's socket: status, drop, admit, pause and deadline of a run that goes on meanwhile."""

from __future__ import annotations

import json
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import SERVER, Processes
from rich.console import Console

from forks import run_command
from reference import make_setting
from splitft import Job, run
from splitft.engines.local import LocalCohort
from splitft.engines.network.orders import ORDERS
from splitft.errors import NetworkError
from splitft.history import read_history
from splitft.launch.cli import INCOMPLETE
from splitft.running.operator_socket import SOCKET, ask_server

NAMES = ["client-0", "client-1", "client-2"]
LOST = "client-2"


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("operator")
    return make_setting(folder, "llama", num_hidden_layers=4) | {
        "clients": 3, "rounds": 5, "local_steps": 2, "cuts": [1, 2, 2], "eval_every": 1, "labels": "server",
    }  # fmt: skip


@pytest.fixture
def processes(setting: dict[str, Any], tmp_path: Path) -> Iterator[Processes]:
    made = Processes(setting, tmp_path, names=NAMES, ends=(0, INCOMPLETE))
    yield made
    made.stop()


def ask(processes: Processes, do: str, **more: Any) -> dict[str, Any]:
    return ask_server(processes.output, {"do": do, **more})


def until(
    processes: Processes, holds: Callable[[dict[str, Any]], bool], seconds: float = 90.0
) -> dict[str, Any]:
    """Ask for the status until it is as wanted."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds(found := ask(processes, "status")):
                return found
        except NetworkError:  # it does not listen yet
            found = {}
        assert time.monotonic() < deadline, (found, processes.said(SERVER))
        time.sleep(0.05)


def without(
    setting: dict[str, Any], folder: Path, rounds: set[int], monkeypatch: pytest.MonkeyPatch
) -> bytes:
    """The adapter of a run in one process in which a client is no member in these rounds."""
    present = LocalCohort.present

    def fewer(self: LocalCohort, round_: int) -> Any:
        return [name for name in present(self, round_) if not (name == LOST and round_ in rounds)]

    monkeypatch.setattr(LocalCohort, "present", fewer)
    result = run(Job(**setting, output_dir=str(folder)), console=Console(quiet=True))
    return (result.adapter_path / "adapter_model.safetensors").read_bytes()


def test_a_lost_client_is_dropped_and_the_run_is_as_if_it_were_no_member(
    processes: Processes, setting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client is killed for good; the server is killed after the drop, too, and follows it when resumed."""
    output = processes.output
    processes.start_all({LOST: "client.take:40:delay:60"})
    until(processes, lambda now: now["clients"][LOST]["standing"] == "training" and now["round"] >= 1)
    assert stat.S_IMODE((output / SOCKET).stat().st_mode) == 0o600
    process = processes.running.pop(LOST)
    process.kill()
    process.join()
    found = until(processes, lambda now: now["clients"][LOST]["standing"] == "away")
    assert 0 <= time.time() - found["clients"][LOST]["since"] < 60
    assert found["clients"]["client-0"]["standing"] == "training"
    assert "away" in run_command("operator", "status", output).stdout
    done = run_command("operator", "drop", output, LOST)
    assert done.returncode == 0 and f"goes on without {LOST}" in done.stdout
    assert run_command("operator", "drop", output, LOST).returncode == 2
    (order,) = [json.loads(line) for line in (output / ORDERS).read_text().splitlines() if line]
    processes.kill(SERVER)
    assert processes.running[SERVER].exitcode == -signal.SIGKILL
    processes.finish()
    history = read_history(output)
    # The cohort is of those that began a round: with the drop in its middle it goes on without the client.
    lacks = {record["round"] for record in history[1:] if record["clients"][LOST]["loss"] is None}
    first = min(lacks)
    assert lacks == set(range(first, 6)) and first - order["round"] in (0, 1), (
        "a round that it had done counts"
    )
    assert processes.running[SERVER].exitcode == INCOMPLETE
    local = without(setting, tmp_path / "local", lacks, monkeypatch)
    assert (output / "adapter" / "adapter_model.safetensors").read_bytes() == local


def test_a_client_is_dropped_for_some_rounds_and_admitted_again(processes: Processes) -> None:
    """A client that is there keeps dialling meanwhile; the run pauses, so that the test sees each state."""
    processes.start_all({"client-0": "client.take:14:delay:4"})
    until(processes, lambda now: now["round"] >= 1)
    assert "pauses before round" in ask(processes, "pause")["told"]
    assert "from round" in ask(processes, "drop", client=LOST)["told"]
    assert "error" in ask(processes, "drop", client="nobody")
    while ask(processes, "status")["clients"][LOST]["standing"] != "suspended":
        ask(processes, "resume")
        time.sleep(0.02)
        ask(processes, "pause")
    assert "late after 500 seconds" in ask(processes, "deadline", seconds=500)["told"]
    assert ask(processes, "status")["round_seconds"] == 500
    assert "error" in ask(processes, "deadline", seconds=-1) and "error" in ask(processes, "sing")
    done = run_command("operator", "admit", processes.output, LOST)
    assert done.returncode == 0, done.stderr
    ask(processes, "resume")
    processes.finish()
    assert LOST not in json.loads((processes.output / "summary.json").read_text())["missing"]
    there = [LOST in record["cohort"] for record in read_history(processes.output)[1:]]
    assert there[0] and there[-1] and False in there


def test_no_server(tmp_path: Path) -> None:
    done = run_command("operator", "status", tmp_path)
    assert done.returncode == 6 and "no server answers at" in done.stderr
    assert done.stderr.count("error:") == 1
