"""A comparison through the real command line and real processes: made once, resumed, failing, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cases import rest_slow
from commands import run_process, start_process
from forks import run_command, start_command
from run_files import adapter_of, figures_of
from splitft.errors import OutputError
from splitft.tools.compare.store import Store, open_store, run_state
from tiny import save_tiny_model

SPLITFT = [sys.executable, "-m", "splitft.launch"]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "120",
    "TERM": "dumb",
    "PYTHONIOENCODING": "utf-8",
}
COMPARED = ["--methods", "same_split,splitft", "--seeds", "2", "--parallel", "2"]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    rows = [f"the people of the united states made law number {i}" for i in range(40)]
    (folder / "rows.txt").write_text("\n\n".join(rows), encoding="utf-8")
    settings = {
        "model_name_or_path": str(save_tiny_model(folder / "model", "gpt2")),
        "data_files": str(folder / "rows.txt"),
        "max_length": 16,
        "max_eval_samples": 4,
        "labels": "server",
        "clients": 2,
        "cuts": 1,
        "rounds": 1,
        "local_steps": 1,
        "lora_r": 4,
        "use_cpu": True,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder / "job.yaml"


@pytest.fixture(scope="module")
def compared(
    job: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two methods, two seeds, compared once."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    return folder, compare(job, *COMPARED, "--out", folder)


def compare(job: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_process([*SPLITFT, "compare", job, *arguments], env=ENVIRONMENT, timeout=300)


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def await_that(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_every_run_is_made_and_reported(compared: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = compared
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 runs done" in done.stdout
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert {row["label"]: row["seeds"] for row in results["variants"]} == {
        "same_split": [42, 43], "splitft": [42, 43]
    }  # fmt: skip
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "same_split" in page
    assert f"{results['variants'][0]['perplexity']['mean']:.1f}" in page + done.stdout
    for variant in variants_of(folder / "sweep.json"):
        effective = yaml.safe_load((folder / variant["run"] / "job.yaml").read_text(encoding="utf-8"))
        assert effective["seed"] == variant["seed"]
        assert effective["method"] == variant["label"]
        assert (folder / variant["run"] / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_same_comparison_again_runs_nothing(
    job: Path, compared: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, _ = compared
    before = snapshot(folder / "runs")
    again = compare(job, *COMPARED, "--out", folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "4 are finished, 0 to go" in again.stdout
    assert "started" not in again.stdout
    assert snapshot(folder / "runs") == before


@pytest.mark.slow
def test_a_failing_variant_is_told_and_costs_no_other(
    job: Path, compared: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, _ = compared
    before = snapshot(folder / "runs")
    done = compare(job, "--methods", "same_split", "--vary", "cuts=[4,1]", "--out", folder)  # 4 blocks in all
    assert done.returncode == 2, done.stdout + done.stderr
    assert "1 of 2 runs failed" in done.stdout
    assert "cuts must lie between 1 and 3" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert [row["seeds"] for row in results["variants"]] == [[42]]
    assert "Left out: " in (folder / "report.html").read_text(encoding="utf-8")
    after = snapshot(folder / "runs")
    assert {path: after[path] for path in before} == before


def test_nothing_is_started_where_one_job_is_wrong(job: Path, tmp_path: Path) -> None:
    done = run_command(
        "compare",
        job,
        "--methods",
        "same_spilt",
        "--vary",
        "lora_r_cut=4",
        "--seeds",
        "0",
        "--out",
        tmp_path / "out",
    )
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert "3 problems; nothing was started" in told
    assert all(
        part in told for part in ("did you mean same_split?", "--vary lora_r_cut", "--seeds: at least 1")
    )
    wrong = run_command("compare", job, "--vary", "lora_r_cut=[2, 5]", "--out", tmp_path / "out")
    assert wrong.returncode == 2
    assert "5 is more than lora_r (4)" in wrong.stderr
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_killed_goes_on_from_its_checkpoint_to_the_same_bits(
    job: Path, tmp_path: Path
) -> None:
    """One of three rounds is kept; the comparison again makes the other two, and none anew."""
    arguments = ["compare", job, "--methods", "same_split", "rounds=3", "--out"]
    assert run_command(*arguments, tmp_path / "whole", timeout=120).returncode == 0
    cut_off = start_command(
        [*arguments, tmp_path / "cut"], tmp_path / "log", points="checkpoint.renamed:2:kill"
    )
    cut_off.join(120)
    assert cut_off.exitcode != 0
    (run,) = runs_of(tmp_path / "cut")
    assert run_state(Store(tmp_path / "cut"), run.name) == "unfinished" and rounds_of(run) < 4
    again = run_command(*arguments, tmp_path / "cut", timeout=120)
    assert again.returncode == 0 and "0 are finished, 1 to go (1 from a checkpoint)" in again.stdout
    assert "going on after round" in Store(tmp_path / "cut").log(run.name).read_text(encoding="utf-8")
    (whole,) = runs_of(tmp_path / "whole")
    assert adapter_of(run) == adapter_of(whole) and figures_of(run) == figures_of(whole)
    assert not (tmp_path / "cut" / "unfinished").exists()


@contextmanager
def endless(job: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A comparison of a short run and one that never ends."""
    arguments = ["compare", job, "--vary", "rounds=[1,1000000]", "--out", folder]
    process = start_process([*SPLITFT, *arguments], env=ENVIRONMENT, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def runs_of(folder: Path) -> list[Path]:
    index = folder / "sweep.json"
    return [folder / variant["run"] for variant in variants_of(index)] if index.is_file() else []


def variants_of(index: Path) -> list[dict[str, Any]]:
    return list(json.loads(index.read_text(encoding="utf-8"))["variants"])


def rounds_of(run: Path) -> int:
    history = run / "history.jsonl"
    return len(history.read_text(encoding="utf-8").splitlines()) if history.is_file() else 0


@pytest.mark.parametrize("how", rest_slow([signal.SIGINT, signal.SIGKILL], 0))
def test_a_comparison_that_is_stopped_stops_its_runs_and_keeps_what_is_finished(
    job: Path, tmp_path: Path, how: signal.Signals
) -> None:
    folder = tmp_path / "out"
    with endless(job, folder) as process:
        await_that(lambda: len(runs_of(folder)) == 2 and rounds_of(runs_of(folder)[1]) > 1)
        with pytest.raises(OutputError, match="another comparison is at work"), open_store(folder):
            pass
        process.send_signal(how)
        _, told = process.communicate(timeout=120)
        if how == signal.SIGINT:
            assert process.returncode == 130
            assert b"Traceback" not in told

    def unlocked() -> bool:  # the runs hold the lock as long as they live
        try:
            with open_store(folder):
                return True
        except OutputError:
            return False

    await_that(unlocked)
    short, long = runs_of(folder)
    assert run_state(Store(folder), short.name) == "finished"
    assert run_state(Store(folder), long.name) == "unfinished"
    assert json.loads((long / "summary.json").read_text(encoding="utf-8"))["interrupted"] is True
    kept, rounds = snapshot(short), rounds_of(long)
    if how == signal.SIGINT:
        with endless(job, folder) as process:  # only the second one goes on
            await_that(lambda: rounds_of(long) > rounds + 1)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)
        assert snapshot(short) == kept
        assert not (folder / "unfinished").exists()
