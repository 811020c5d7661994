"""Keys that a job leaves to its data stay open in the job that is read again: on disk and over a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from network_threads import QUIET, together
from reference import make_setting
from splitft import Job, run
from splitft.history import read_history
from splitft.job import dump_job, load_job
from splitft.tools.compare.plan import run_name


def write_pairs(path: Path, seed: int) -> str:
    """Write rows that can be read as prompt + completion or, where the job says so, as text."""
    rows = [
        {
            "prompt": f"the people {seed} {row}",
            "completion": " in order " * (1 + row % 3),
            "text": "state",
        }
        for row in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def setting(tmp_path: Path) -> dict[str, Any]:
    names = ("anna", "ben")
    files = {name: write_pairs(tmp_path / f"{name}.jsonl", seed) for seed, name in enumerate(names)}
    return make_setting(tmp_path, "llama", num_hidden_layers=3) | {
        "data_files": files, "labels": "server", "local_steps": 1, "rounds": 2, "cuts": 1, "eval_every": 1,
        "warmup_steps": 0, "lr_scheduler_type": "constant", "network": {"clients": list(names)},
    }  # fmt: skip


def test_pairs_beside_a_text_column_are_read_alike_when_resumed_and_over_a_network(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(Job(**setting, output_dir=str(tmp_path / "whole")), console=QUIET)
    name = "adapter/adapter_model.safetensors"
    wanted = (tmp_path / "whole" / name).read_bytes()
    part = tmp_path / "part"
    run(Job(**setting | {"rounds": 1}, output_dir=str(part)), console=QUIET)
    run(load_job(part / "job.yaml", ["rounds=2"]), resume=True, console=QUIET)
    assert (part / name).read_bytes() == wanted
    folder = together(setting, tmp_path / "network")
    perplexities = [record["perplexity"] for record in read_history(folder)]
    assert perplexities == [record.perplexity for record in whole.history]
    assert (folder / name).read_bytes() == wanted
    stated = run(Job(**setting, dataset_text_field="text", output_dir=str(tmp_path / "text")), console=QUIET)
    assert stated.history[0].perplexity != whole.history[0].perplexity


def test_a_stated_text_column_is_written_and_is_a_run_of_its_own(tmp_path: Path) -> None:
    common = {"model_name_or_path": "m", "data_files": "rows.jsonl"}
    for keys in ({}, {"dataset_text_field": "text"}):
        job = Job(**common, **keys)
        dump_job(job, tmp_path / "job.yaml")
        read = load_job(tmp_path / "job.yaml")
        assert ("dataset_text_field" in read.model_fields_set) == bool(keys)
        assert run_name(read) == run_name(job)
    assert run_name(read) != run_name(Job(**common))
