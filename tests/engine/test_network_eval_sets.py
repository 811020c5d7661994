"""Evaluation sets of clients that bring their own data over a network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from network_threads import QUIET, together
from reference import make_setting, write_rows
from splitft import Job, run
from splitft.errors import JobError
from splitft.history import read_history
from splitft.running.client_setup import ClientSetup
from splitft.running.join import join
from splitft.running.serve import serve


@pytest.fixture
def setting(tmp_path: Path) -> dict[str, Any]:
    names = ("anna", "ben")
    data = {name: str(write_rows(tmp_path / f"{name}.txt", rows=24, seed=i)) for i, name in enumerate(names)}
    own = {
        name: str(write_rows(tmp_path / f"{name}-e.txt", rows=5 + i, seed=9 + i))
        for i, name in enumerate(names)
    }
    return make_setting(tmp_path, "llama", num_hidden_layers=3) | {
        "data_files": data, "eval_files": own, "partition": {"method": "files"}, "labels": "server",
        "rounds": 2, "local_steps": 2, "cuts": 1, "warmup_steps": 0, "max_eval_samples": None,
        "eval_every": 1, "network": {"clients": list(names)},
    }  # fmt: skip


def test_each_client_evaluates_its_own_set_as_in_one_process(setting: dict[str, Any], tmp_path: Path) -> None:
    alone = run(Job(**setting, output_dir=str(tmp_path / "alone")), console=QUIET)
    rounds = read_history(together(setting, tmp_path))
    assert [record["perplexity"] for record in rounds] == [record.perplexity for record in alone.history]
    for record, wanted in zip(rounds, alone.history, strict=True):
        for name, client in wanted.clients.items():
            assert record["clients"][name]["eval_tokens"] == client.eval_tokens > 0
            assert record["clients"][name]["perplexity"] == client.perplexity


def test_a_client_with_its_own_data_reads_no_evaluation_set_of_the_job(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    """The server names no files on a client's disk."""
    told = Console(file=io.StringIO(), width=400)
    setup = ClientSetup(
        "anna", Path(setting["data_files"]["anna"]), None, None, told, lambda _: pytest.fail()
    )
    common = Job(**setting | {"eval_files": "/etc/hosts.txt"})
    job = setup._own_job(common)
    assert (job.eval_files, job.dataset_test_split) == (None, None)
    assert "--eval-data FILE names rows to evaluate on" in told.file.getvalue()  # type: ignore[attr-defined]
    setup.eval_data = Path("mine.txt")
    assert setup._own_job(common).eval_files == {"anna": "mine.txt"}


def test_an_evaluation_file_goes_with_a_data_file(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="--eval-data goes with --data FILE"):
        join("localhost:1", "anna", job_data=True, eval_data=Path("e.txt"), folder=tmp_path, console=QUIET)


def test_the_server_says_that_it_evaluates_no_rows(setting: dict[str, Any], tmp_path: Path) -> None:
    class HeardError(Exception):
        pass

    def stop(_: Any) -> None:
        raise HeardError

    told = Console(file=io.StringIO(), width=400)
    with pytest.raises(HeardError):
        serve(
            Job(**setting, output_dir=str(tmp_path / "run")), "127.0.0.1:0", console=told, on_listening=stop
        )
    assert "the server reads none" in told.file.getvalue()  # type: ignore[attr-defined]
