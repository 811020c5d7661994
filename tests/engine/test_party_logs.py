"""Logs of server, clients and aggregator: every line of a run has a time, a level and an event."""

from __future__ import annotations

import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from cases import rest_slow
from forks import start_command
from party_logs import events, read_lines
from ports import free_port
from reference import make_setting
from site_files import write_open_policy
from splitft import Job
from splitft.job import dump_job


def start_run(folder: Path, format_: str, aggregator: bool) -> dict[str, Any]:
    """Start a server, two clients and, with it, an aggregator, each with its log; return the processes."""
    network = {"aggregator": f"127.0.0.1:{free_port()}"} if aggregator else {}
    setting = make_setting(folder, "llama", num_hidden_layers=4) | {
        "clients": 2, "rounds": 3, "local_steps": 2, "cuts": [1, 2], "labels": "client", "tail_blocks": 1,
        "eval_every": 1, "network": network,
    }  # fmt: skip
    dump_job(Job(**setting, output_dir=str(folder / "run")), folder / "job.yaml")
    address, log = f"127.0.0.1:{free_port()}", ["--log-format", format_]
    words: dict[str, list[Any]] = {
        "server": ["server", folder / "job.yaml", "--listen", address],
        **{
            name: ["client", "--server", address, "--name", name, "--job-data", "--accept", "first",
                   "--folder", folder / name, "--policy", write_open_policy(folder)]
            for name in ("client-0", "client-1")
        },
    }  # fmt: skip
    if aggregator:
        words["aggregator"] = ["aggregator", folder / "job.yaml", "--folder", folder / "aggregator"]
    return {who: start_command([*own, *log], folder / f"{who}.log") for who, own in words.items()}


@pytest.mark.parametrize(("format_", "aggregator"), rest_slow([("json", True), ("text", False)], 1))
def test_every_line_of_a_run_has_a_time_a_level_and_an_event(
    format_: str, aggregator: bool, tmp_path: Path
) -> None:
    running = start_run(tmp_path, format_, aggregator)
    try:
        for who, process in running.items():
            process.join(90)
            assert process.exitcode == 0, (tmp_path / f"{who}.log").read_text()
    finally:
        for process in running.values():
            process.kill()
    logs = {who: read_lines(tmp_path / f"{who}.log", format_) for who in running}
    rounds = events(logs["server"], "round")
    own = events(logs["client-0"], "client.trained")
    evaluated = events(logs["client-0"], "client.evaluated")
    assert (len(rounds), len(own), len(evaluated)) == (4, 3, 4)
    assert len(events(logs["server"], "client.takes_part")) == 2
    assert all(logs[who][-1]["event"] == "end" for who in logs if who != "server")
    if format_ == "json":
        assert [line["round"] for line in own] == [1, 2, 3]
        assert own[-1]["bytes_up"] > own[0]["bytes_up"] > 0 < own[0]["bytes_down"]
        assert own[0]["seconds_left"] is None and own[1]["seconds_left"] >= 0
        assert_the_figures_are_the_runs(tmp_path, own, evaluated)


def assert_the_figures_are_the_runs(folder: Path, own: list[Any], evaluated: list[Any]) -> None:
    """A client's own loss and perplexity are those that the server's history has of it."""
    from splitft.history import read_history

    history = read_history(folder / "run")
    losses = [record["clients"]["client-0"]["loss"] for record in history[1:]]
    perplexities = [record["clients"]["client-0"]["perplexity"] for record in history]
    assert [line["loss"] for line in own] == pytest.approx(losses, rel=0.02)  # the server's is by tokens
    assert [line["perplexity"] for line in evaluated] == pytest.approx(perplexities)


def test_an_error_is_the_last_line_and_a_file_gets_all_lines(tmp_path: Path) -> None:
    """A client with a log file, whose server is not there; then one with a wrong address."""
    (tmp_path / "rows.txt").write_text("we the people")
    address, file = f"127.0.0.1:{free_port()}", tmp_path / "logs" / "client.log"
    words = ["client", "--server", address, "--name", "anna", "--data", tmp_path / "rows.txt", "--accept",
             "first", "--folder", tmp_path / "anna", "--log-format", "json", "--log-file", file]  # fmt: skip
    process = start_command(words, tmp_path / "log")
    deadline = time.monotonic() + 60
    while not file.exists() or "no answer" not in file.read_text():
        assert time.monotonic() < deadline and process.exitcode is None
        time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert file.read_text() == (tmp_path / "log").read_text()
    (line,) = events(read_lines(file, "json"), "connection")
    assert (line["level"], line["address"]) == ("WARNING", address)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    (tmp_path / "anna" / "site.yaml").write_text("methods: [none]\n")
    process = start_command([*words[:-4], "--log-format", "text"], tmp_path / "refused")
    process.join(60)
    assert process.exitcode == 2
    assert (line := read_lines(tmp_path / "refused", "text")[-1])["event"] == "error"
    assert "methods" in line["text"] and line["level"] == "ERROR"
