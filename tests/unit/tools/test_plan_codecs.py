"""`splitft plan --codecs`: each codec's loss and bytes are those of a run's first step with it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cases import rest_slow
from reference import make_setting, write_rows
from splitft import Job, JobError, load_job, register_codec, run
from splitft.job import dump_job
from splitft.tools.plan.command import plan_command
from splitft.wire.codecs import registry
from splitft.wire.codecs.bf16 import BF16

QUIET = Console(quiet=True)
Settings = dict[str, Any]
MODES: dict[str, Settings] = {
    "labels at the server": {"gradient_accumulation_steps": 2},
    "one row, dropout": {"padding_free": True, "lora_dropout": 0.2},
    "labels at home": {"labels": "client", "tail_blocks": 1},
    "frozen front": {"train_front": False, "activation_cache_gb": 0, "adapter_name_or_path": None},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("codecs")
    return make_setting(folder, "llama", num_hidden_layers=4, hidden_size=64) | {
        "data_files": {"anna": str(write_rows(folder / "anna.txt", rows=20, seed=0))}, "rounds": 1,
        "local_steps": 1, "cuts": 2, "labels": "server", "partition": {"method": "files"}, "clients": 1,
        "max_eval_samples": None, "warmup_steps": 0,
    }  # fmt: skip


@pytest.fixture
def registered() -> Iterator[str]:
    register_codec("mine", BF16)
    yield "mine"
    del registry.CODECS._own["mine"]


def tried(settings: Settings) -> dict[str, dict[str, Any]]:
    plan = plan_command(Job(**settings), codecs=True, console=QUIET)
    return {trial["codec"]: trial for trial in plan["codecs"]}


@pytest.mark.parametrize("mode", rest_slow(MODES, 1))
def test_it_is_the_first_step_of_a_run(mode: str, setting: Settings, tmp_path: Path) -> None:
    settings = setting | MODES[mode]
    trials, losses = tried(settings), dict[str, float]()
    for codec in ("none", "int8", "int2"):
        result = run(Job(**settings | {"codec": codec}, output_dir=str(tmp_path / codec)), console=QUIET)
        losses[codec] = result.history[1].clients["anna"].loss or 0.0
        sent = result.summary["bytes"]
        for key, kind in (("step_bytes", "activations"), ("gradient_bytes", "gradients")):
            bytes_ = sum(sent[way].get(kind, 0) for way in ("up", "down"))
            assert trials[codec][key] == pytest.approx(bytes_, rel=0.3)  # batches of other lengths
            if settings.get("gradient_accumulation_steps", 1) == 1:
                assert trials[codec][key] == bytes_
    if mode in ("one row, dropout", "frozen front"):  # one batch a step, one crossing
        for codec, loss in losses.items():
            assert trials[codec]["loss_change"] == pytest.approx(loss / losses["none"] - 1, abs=1e-6)


def test_fewer_bits_lose_more(setting: Settings, registered: str) -> None:
    trials = tried(setting)
    names = ["none", "bf16", "int8", "int4", "int3", "int2"]
    assert list(trials)[: len(names)] == names  # registered ones follow, those of other tests among them
    for finer, coarser in pairwise(names):
        for key in ("lost", "gradient_lost"):
            assert trials[finer][key] <= trials[coarser][key]
        for key in ("step_bytes", "gradient_bytes"):
            assert trials[finer][key] > trials[coarser][key]
        assert trials[finer]["direction"] >= trials[coarser]["direction"] > 0.5
    assert trials["none"]["direction"] == pytest.approx(1.0) and trials["none"]["lost"] == 0.0
    assert {**trials["bf16"], "codec": registered} == trials[registered]


def test_it_is_asked_for(setting: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitft.running.model.load_model", None)  # would fail
    console = Console(record=True, width=200)
    assert "codecs" not in plan_command(Job(**setting | {"codec": None}), console=console)
    assert "splitft plan JOB --codecs" in console.export_text()


def test_codecs_cannot_be_tried_without_a_cut(setting: Settings) -> None:
    with pytest.raises(JobError, match="--codecs"):
        plan_command(Job(**setting | {"method": "fed_lora"}), codecs=True, console=QUIET)


@pytest.mark.parametrize("key", ["codec", "gradient_codec", "eval_codec"])
def test_codec_auto_names_the_plan(key: str, setting: Settings, tmp_path: Path) -> None:
    dump_job(Job(**setting), tmp_path / "job.yaml")
    with pytest.raises(JobError, match=f"{key}: auto is no codec any more: `splitft plan JOB --codecs`"):
        load_job(tmp_path / "job.yaml", [f"{key}=auto"])
