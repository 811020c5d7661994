"""A reading after each round: what it says, and that it changes nothing of the run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from commands import splitft as command
from reference import make_setting, write_rows
from splitft import Job, JobError, run
from splitft.job import dump_job
from splitft.tools.audit.meter import ReadableMeter

QUIET = Console(quiet=True)


@pytest.fixture
def setting(tmp_path: Path) -> dict[str, Any]:
    made = make_setting(tmp_path, "llama", num_hidden_layers=4, hidden_size=64)
    return made | {
        "data_files": str(write_rows(tmp_path / "rows.txt", rows=60)), "clients": 2, "cuts": [1, 2],
        "rounds": 3, "local_steps": 1, "warmup_steps": 0, "codec": "int8", "adapter_name_or_path": None,
    }  # fmt: skip


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_a_reading_changes_nothing_but_the_history(setting: dict[str, Any], tmp_path: Path) -> None:
    said = Console(record=True, width=200, file=io.StringIO())
    folders = [tmp_path / name for name in ("with", "without")]
    for folder, meter in zip(folders, (ReadableMeter(every=2), None), strict=True):
        run(Job(**setting, output_dir=str(folder)), console=said if meter else QUIET, meter=meter)
    weights = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    read, plain = map(history, folders)
    assert [sorted(line.pop("readable", {})) for line in read] == [
        ["client-0", "client-1"], [], ["client-0", "client-1"], ["client-0", "client-1"]
    ], "rounds 0 and 2, and the last"  # fmt: skip
    times = ("round_seconds", "evaluation_seconds")
    assert [{k: v for k, v in line.items() if k not in times} for line in read] == [
        {k: v for k, v in line.items() if k not in times} for line in plain
    ]
    assert said.export_text().count("readable client-1 cut 2 int8: ") == 3


def test_what_it_reads(setting: dict[str, Any], tmp_path: Path) -> None:
    """More than guessing: the weights are random, and known; a client's tokens are counted."""
    run(Job(**setting, output_dir=str(tmp_path / "run")), console=QUIET, meter=ReadableMeter())
    for line in history(tmp_path / "run"):
        for own in line["readable"].values():
            assert set(own) == {"tokens", "rare", "guess", "n"} and 100 < own["n"] < 256
            assert own["guess"] + 0.2 < own["tokens"] <= 1 and 0 <= own["rare"] <= 1


def test_a_method_without_activations(setting: dict[str, Any], tmp_path: Path) -> None:
    job = Job(**setting | {"method": "fed_lora", "codec": "none", "output_dir": str(tmp_path / "run")})
    with pytest.raises(JobError, match="sends no activations"):
        run(job, console=QUIET, meter=ReadableMeter())


def test_the_option(setting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(**setting | {"rounds": 1, "output_dir": str(tmp_path / "run")})
    dump_job(job, tmp_path / "job.yaml")
    assert command("run", tmp_path / "job.yaml", "--readable", "1", monkeypatch=monkeypatch) == 0
    assert all("readable" in line for line in history(tmp_path / "run"))
