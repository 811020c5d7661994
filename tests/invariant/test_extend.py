"""A finished run with more rounds: equal to the run of that many rounds where the schedule allows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from runs import QUIET, Settings

from cases import rest_slow
from network_threads import together
from reference import make_setting, write_rows
from run_files import adapter_of
from splitft import Job, RunResult, run
from splitft.common.failpoints import VARIABLE
from splitft.errors import JobError, OutputError
from splitft.history import RoundRecord, read_history
from splitft.lora.optimizer import learning_rates, schedule_of_all_rounds


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("extend")
    return make_setting(folder, "llama", num_hidden_layers=4) | {
        "clients": 2, "rounds": 4, "local_steps": 2, "cuts": [1, 2], "eval_every": 1, "warmup_steps": 0,
        "lr_scheduler_type": "constant", "lora_dropout": 0.1,
    }  # fmt: skip


def finish(settings: Settings, folder: Path, console: Console = QUIET, **options: Any) -> RunResult:
    return run(Job(**settings, output_dir=str(folder)), console=console, **options)


def timeless(records: list[RoundRecord]) -> list[RoundRecord]:
    return [replace(record, round_seconds=0.0, evaluation_seconds=0.0) for record in records]


MODES: dict[str, Settings] = {
    "per_client": {},
    "shared, labels at home": {"server_adapter": "shared", "labels": "client"},
    "moving cuts": {"clients": 3, "cuts": 2, "cut_policy": {"method": "splitft", "hysteresis": 0.0}},
    "warm-up in steps": {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3},
    "local_only": {"method": "local_only"},
    "fed_lora": {"method": "fed_lora"},
}


@pytest.mark.parametrize("mode", rest_slow(MODES, ["per_client", "local_only"]))
def test_an_extended_run_is_bit_equal_to_a_longer_one(mode: str, setting: Settings, tmp_path: Path) -> None:
    settings = setting | MODES[mode]
    wanted = finish(settings, tmp_path / "whole")
    finish(settings | {"rounds": 2}, tmp_path / "run")
    got = finish(settings, tmp_path / "run", resume=True)
    assert timeless(got.history) == timeless(wanted.history)
    for path in wanted.output_dir.rglob("adapter_model.safetensors"):
        assert (got.output_dir / path.relative_to(wanted.output_dir)).read_bytes() == path.read_bytes()
    assert [path.name for path in (got.output_dir / "checkpoints").iterdir()] == ["round-000004"]
    assert got.summary["rounds"] == 4 and not got.summary["interrupted"]


def test_a_schedule_over_all_rounds_is_told(
    setting: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = setting | {"lr_scheduler_type": "linear"}
    finish(settings | {"rounds": 1}, tmp_path / "run")
    got = finish(settings | {"rounds": 2}, tmp_path / "run", Console(width=200), resume=True)
    said = capsys.readouterr().out
    assert (
        "the run of 1 round is extended to 2; from round 2 on, the learning rate is that of a run of 2"
        in said
    )
    assert "lr_scheduler_type linear" in said
    assert [record.round for record in got.history] == [0, 1, 2]


@pytest.mark.parametrize(
    "kind", ["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"]
)
@pytest.mark.parametrize("warmup", [{}, {"warmup_ratio": 0.5}, {"warmup_steps": 2}])
def test_the_schedules_that_depend_on_the_rounds_are_known(kind: str, warmup: Settings) -> None:
    if kind == "constant" and warmup:
        return
    short, long = (
        Job(model_name_or_path="m", dataset_name="d", rounds=n, lr_scheduler_type=kind, **warmup)
        for n in (2, 4)
    )
    same = all(learning_rates(short)(step) == learning_rates(long)(step) for step in range(20))
    assert schedule_of_all_rounds(long) == (not same)


def test_an_extension_that_is_cut_off_goes_on(
    setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(setting | {"rounds": 1}, tmp_path / "run")
    monkeypatch.setenv(VARIABLE, "server.step:3:interrupt")  # in the first of the new rounds
    with pytest.raises(KeyboardInterrupt):
        finish(setting | {"rounds": 2}, tmp_path / "run", resume=True)
    monkeypatch.delenv(VARIABLE)
    got = finish(setting | {"rounds": 2}, tmp_path / "run", resume=True)
    wanted = finish(setting | {"rounds": 2}, tmp_path / "whole")
    assert timeless(got.history) == timeless(wanted.history)


def test_what_cannot_be_extended_is_refused(setting: Settings, tmp_path: Path) -> None:
    settings = setting | {"rounds": 2, "save_every": 0}
    finish(settings, tmp_path / "run")
    with pytest.raises(JobError, match="is of 2 rounds, and the job now asks for 1: --resume can extend"):
        finish(settings | {"rounds": 1}, tmp_path / "run", resume=True)
    with pytest.raises(OutputError, match=r"has kept no state to go on from .*adapter_name_or_path="):
        finish(settings | {"rounds": 3}, tmp_path / "run", resume=True)
    with pytest.raises(OutputError, match="already holds a run"):
        finish(settings | {"rounds": 3}, tmp_path / "run")


def test_a_run_over_a_network_is_extended(setting: Settings, tmp_path: Path) -> None:
    settings = setting | {
        "data_files": {n: str(write_rows(tmp_path / f"{n}.txt", 24, seed)) for seed, n in enumerate("ab")},
        "labels": "server", "partition": {"method": "files"}, "network": {"clients": ["a", "b"]},
        "max_eval_samples": None, "lora_dropout": 0.0,  # threads share torch's generator
    }  # fmt: skip
    together(settings | {"rounds": 2}, tmp_path)
    extended = together(settings, tmp_path, resume=True)
    (tmp_path / "whole").mkdir()
    whole = together(settings, tmp_path / "whole")
    assert adapter_of(extended) == adapter_of(whole)
    assert [line["perplexity"] for line in read_history(extended)] == [
        line["perplexity"] for line in read_history(whole)
    ]


def test_a_member_that_has_lost_its_state_is_told_in_an_extension(setting: Settings, tmp_path: Path) -> None:
    settings = setting | {
        "data_files": {"a": str(write_rows(tmp_path / "a.txt", rows=24))}, "labels": "server",
        "partition": {"method": "files"}, "network": {"clients": ["a"]}, "rounds": 1, "clients": 1, "cuts": 1,
    }  # fmt: skip
    together(settings, tmp_path)
    shutil.rmtree(tmp_path / "a")
    with (tmp_path / "said").open("w") as file:
        together(settings | {"rounds": 2}, tmp_path, resume=True, console=Console(file=file, width=200))
    assert "a has lost its state: its optimizer starts from zero" in (tmp_path / "said").read_text()


# Hugging Face's numbers of steps


def test_max_steps_is_rounds(setting: Settings, tmp_path: Path) -> None:
    job = Job(**setting | {"max_steps": 4, "local_steps": 2})
    assert job.rounds == 2
    finish(setting | {"max_steps": 2}, tmp_path / "run")
    got = finish(setting | {"max_steps": 4}, tmp_path / "run", resume=True)
    assert got.summary["rounds"] == 2
    with pytest.raises(
        JobError, match="max_steps: 5 is no whole number of rounds of local_steps 2: set 4 or 6"
    ):
        Job(**setting | {"max_steps": 5})
    with pytest.raises(JobError, match=r"max_steps: 1 is no whole .*: set 2, or other"):
        Job(**setting | {"max_steps": 1})
    with pytest.raises(JobError, match="set max_steps or num_train_epochs, not both"):
        Job(**setting | {"max_steps": 4, "num_train_epochs": 1})


def test_epochs_are_those_of_the_client_with_most_rows(setting: Settings, tmp_path: Path) -> None:
    settings = setting | {
        "data_files": {n: str(write_rows(tmp_path / f"{n}.txt", rows=r)) for n, r in (("a", 10), ("b", 20))},
        "num_train_epochs": 2, "max_eval_samples": 2,
    }  # fmt: skip
    got = finish(settings, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "partition.json").read_text())
    largest = max(client["train_rows"] for client in rows["clients"])
    seen = got.summary["rounds"] * settings["local_steps"] * settings["per_device_train_batch_size"]
    a_round = settings["local_steps"] * settings["per_device_train_batch_size"]
    assert 2 * largest <= seen < 2 * largest + a_round
    # It is complete, whatever the job's rounds; more epochs extend it, fewer are refused.
    assert finish(settings, tmp_path / "run", resume=True).history == got.history
    more = finish(settings | {"num_train_epochs": 2.5}, tmp_path / "run", resume=True)
    assert len(more.history) > len(got.history)
    assert more.history[: len(got.history)] == got.history
    with pytest.raises(JobError, match="can extend a run, not shorten it"):
        finish(settings | {"num_train_epochs": 0.5}, tmp_path / "run", resume=True)
