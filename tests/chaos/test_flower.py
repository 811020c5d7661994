"""I3 with Flower: SuperLink and SuperNodes launch the run, and the same bits come out as in one process."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from forks import run_command
from reference import make_setting, write_rows
from splitft import Job, run
from splitft.history import read_history
from splitft.job import dump_job

pytest.importorskip("flwr", reason="the extra [flower] is not installed")
from federation import Federation

NAMES = ["hospital-a", "hospital-b", "hospital-c"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("flower")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=24, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama", num_hidden_layers=5) | {
        "data_files": files, "partition": {"method": "files"}, "network": {"clients": NAMES},
        "local_steps": 2, "cuts": [1, 2, 3], "eval_every": 1, "labels": "server", "max_eval_samples": None,
        "warmup_steps": 0,
    }  # fmt: skip


@pytest.fixture
def federation(setting: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Nodes of their own for each job: their owners agree to the first one."""
    made = Federation(tmp_path_factory.mktemp("federation"), setting["data_files"])
    try:
        made.start()
        yield made
    finally:
        made.stop()


def prepare(setting: dict[str, Any], folder: Path, rounds: int) -> tuple[Path, bytes]:
    """Write the job; return its file, and the adapter that it makes in one process."""
    own = setting | {"rounds": rounds}
    run(Job(**own, output_dir=str(folder / "local")), console=Console(quiet=True))
    dump_job(Job(**own, output_dir=str(folder / "run")), folder / "job.yaml")
    return folder / "job.yaml", adapter(folder / "local")


def adapter(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_launched_by_flower_the_same_bits_come_out(
    setting: dict[str, Any], federation: Federation, tmp_path: Path
) -> None:
    job, wanted = prepare(setting, tmp_path, rounds=2)
    federation.run(job)
    assert (tmp_path / "run" / "adapter").exists(), federation.said()
    assert adapter(tmp_path / "run") == wanted
    replies = json.loads((tmp_path / "run" / "flower.json").read_text())
    last = read_history(tmp_path / "run")[-1]
    assert {name: reply["perplexity"] for name, reply in replies.items()} == pytest.approx(
        {name: client["perplexity"] for name, client in last["clients"].items()}
    )


@pytest.mark.slow
def test_a_killed_app_is_started_again_and_not_seen_in_the_result(
    setting: dict[str, Any], federation: Federation, tmp_path: Path
) -> None:
    job, wanted = prepare(setting, tmp_path, rounds=40)
    federation.submit(job)
    wait_for_rounds(tmp_path, 5, federation)
    federation.app_of("hospital-b").kill()
    federation.running["run"].wait(300)
    assert adapter(tmp_path / "run") == wanted, federation.said()
    assert (federation.folder / "run.log").read_text().count("started hospital-b") >= 2


@pytest.mark.slow
def test_a_killed_superlink_comes_back_with_its_database(
    setting: dict[str, Any], federation: Federation, tmp_path: Path
) -> None:
    """Nobody registers again: the same command goes on from the last checkpoint, to the same bits."""
    job, wanted = prepare(setting, tmp_path, rounds=40)
    federation.submit(job)
    wait_for_rounds(tmp_path, 5, federation)
    federation.kill("superlink")
    federation.running["run"].wait(120)
    assert not adapter_is_whole(tmp_path / "run")
    federation.start_link()
    federation.run(job, 400)
    assert adapter(tmp_path / "run") == wanted, federation.said()
    assert (federation.folder / "superlink.db").stat().st_size > 0


@pytest.mark.slow
def test_an_operator_sees_a_lost_site_and_goes_on_without_it(
    setting: dict[str, Any], federation: Federation, tmp_path: Path
) -> None:
    """With the commands of a run without Flower, at the server's machine."""
    job, _ = prepare(setting, tmp_path, rounds=40)
    federation.submit(job)
    wait_for_rounds(tmp_path, 5, federation)
    federation.kill("hospital-c")
    deadline = time.monotonic() + 120
    while not re.search(r"hospital-c +away +\d+ s", told := status(tmp_path / "run")):
        assert time.monotonic() < deadline, told + federation.said()
        time.sleep(0.5)
    assert re.search(r"hospital-a +training", told)
    done = run_command("operator", "drop", tmp_path / "run", "hospital-c")
    assert done.returncode == 0 and "goes on without hospital-c" in done.stdout
    federation.running["run"].wait(300)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["interrupted"] is False and list(summary["missing"]) == ["hospital-c"], federation.said()
    last = read_history(tmp_path / "run")[-1]
    assert last["round"] == 40 and last["clients"]["hospital-c"]["loss"] is None


def status(folder: Path) -> str:
    return run_command("operator", "status", folder).stdout


def adapter_is_whole(folder: Path) -> bool:
    return json.loads((folder / "summary.json").read_text())["interrupted"] is False


def wait_for_rounds(folder: Path, rounds: int, federation: Federation) -> None:
    history, deadline = folder / "run" / "history.jsonl", time.monotonic() + 120
    while not history.exists() or len(history.read_text().splitlines()) < rounds:
        assert time.monotonic() < deadline, federation.said()
        time.sleep(0.1)
