"""One sweep of the study, small but real: runs, pages, verdicts, and nothing made twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from commands import run_process
from repository import ROOT
from tiny import save_tiny_model

pytestmark = pytest.mark.slow


def study(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_process(
        [sys.executable, ROOT / "benchmarks" / "study.py", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONIOENCODING": "utf-8"},
        timeout=900,
    )


def test_a_sweep_runs_resumes_and_writes_its_page(tmp_path: Path) -> None:
    rows = [f"the people of the united states made law number {i}" for i in range(60)]
    (tmp_path / "rows.txt").write_text("\n\n".join(rows), encoding="utf-8")
    settings = {
        "model_name_or_path": str(save_tiny_model(tmp_path / "model", "llama")),
        "data_files": str(tmp_path / "rows.txt"),
        "max_length": 16,
        "labels": "server",
        "clients": 2,
        "rounds": 1,
        "local_steps": 2,
        "use_cpu": True,
        "devices": "laptop",
    }
    job, out = tmp_path / "job.yaml", tmp_path / "out"
    job.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = ["r-cut-side", "--recipe", job, "--out", out, "--seeds", "2", "--parallel", "2"]

    done = study(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((out / "docs" / "r-cut-side.json").read_text(encoding="utf-8"))
    arms = results["groups"]["all"]
    assert {arm: list(seeds) for arm, seeds in arms.items()} == {
        arm: ["42", "43"] for arm in ("side both", "side client", "side none")
    }
    assert results["missing"] == []
    for seeds in arms.values():
        for figures in seeds.values():
            assert figures["perplexity"] > 1
            assert 0 < figures["seconds_to_target"] <= figures["virtual_seconds"] * (1 + 1e-9)
    page = (out / "docs" / "README.md").read_text(encoding="utf-8")
    assert "![Rank at the cut: on which side](r-cut-side.png)" in page
    assert "n = 2" in page
    assert (out / "docs" / "r-cut-side.png").is_file()
    assert (out / "r-cut-side" / "report.html").is_file()

    made = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    again = study(*command, "--docs", tmp_path / "pages")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "6 are finished, 0 to go" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == made
    assert (tmp_path / "pages" / "README.md").read_text(encoding="utf-8") == page
