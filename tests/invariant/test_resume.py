"""I5: cut off anywhere and resumed equals never cut off, bit by bit: adapter, moments, history, bytes."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from moving import DEVICES, UP_AND_DOWN
from rich.console import Console

from cases import rest_slow
from forks import start_command
from reference import make_setting
from splitft import Job, RunResult, run
from splitft.common.failpoints import VARIABLE
from splitft.common.state import pack
from splitft.errors import DataError, JobError, OutputError
from splitft.history import RoundRecord
from splitft.job import dump_job
from splitft.running.parties import Parties

QUIET = Console(quiet=True)
Settings = dict[str, Any]
CLIENTS, ROUNDS, LOCAL_STEPS = 3, 4, 2


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("resume")
    return make_setting(folder, "llama", num_hidden_layers=6) | {
        "clients": CLIENTS, "rounds": ROUNDS, "local_steps": LOCAL_STEPS, "cuts": [1, 2, 3], "eval_every": 2,
        "lora_dropout": 0.1,
    }  # fmt: skip


MODES: dict[str, Settings] = {
    "per_client": {},
    "shared": {"server_adapter": "shared"},
    "turns": {"order": "turns", "server_adapter": "shared"},
    "labels at home": {
        "labels": "client", "tail_blocks": 1, "clients": 4, "cuts": 2, "cut_policy": UP_AND_DOWN
    },
    "cuts move": {
        "lora_r_cut": 2, "aggregation": "exact", "clients": 4, "cuts": 2,
        "cut_policy": {"method": "splitft", "gamma": 5.0, "hysteresis": 0.0, "max_step": 3}, **DEVICES,
    },
    "freeze_a": {
        "aggregation": "freeze_a", "lora_r_cut": 2, "clients": 4, "cuts": 2, "cut_policy": UP_AND_DOWN
    },
    "sampled": {"clients_per_round": 2, "lr_scheduler_type": "cosine", "gradient_accumulation_steps": 2},
    "dora": {
        "use_dora": True, "adapter_name_or_path": None, "lora_r_cut": 2, "clients": 4, "cuts": 2,
        "cut_policy": UP_AND_DOWN, "loraplus_lr_ratio": 4.0,
    },
    "pissa": {
        "init_lora_weights": "pissa", "adapter_name_or_path": None, "clients": 4, "cuts": 2,
        "cut_policy": UP_AND_DOWN,
    },
    "algorithms": {
        "server_optimizer": "fedyogi", "objective": "fedprox", "proximal_mu": 0.1, "optim": "rmsprop",
        "optim_args": "momentum=0.5", "lora_r_cut": 2, "clients": 4, "cuts": 2, "cut_policy": UP_AND_DOWN,
    },
    "fed_lora": {"method": "fed_lora"},
    "summed": {"method": "fed_lora", "secure_aggregation": True, "robust_aggregation": "none"},
    "local_only": {"method": "local_only"},
    "centralized": {"method": "centralized"},
}  # fmt: skip


def finish(settings: Settings, folder: Path, **options: Any) -> RunResult:
    return run(Job(**settings, output_dir=str(folder)), console=QUIET, **options)


def timeless(record: RoundRecord) -> RoundRecord:
    return replace(record, round_seconds=0.0, evaluation_seconds=0.0)


def assert_same_run(got: RunResult, wanted: RunResult) -> None:
    assert [timeless(record) for record in got.history] == [timeless(record) for record in wanted.history]
    for name in ("history.jsonl", "decisions.jsonl"):
        one, other = (result.output_dir / name for result in (got, wanted))
        assert one.exists() == other.exists()
        if one.exists():
            assert len(one.read_text().splitlines()) == len(other.read_text().splitlines())
    counted = ("bytes", "perplexity", "cuts", "train_tokens", "rounds", "interrupted")
    assert {k: got.summary[k] for k in counted} == {k: wanted.summary[k] for k in counted}
    for path in wanted.output_dir.rglob("adapter_model.safetensors"):
        relative = path.relative_to(wanted.output_dir)
        assert (got.output_dir / relative).read_bytes() == path.read_bytes(), relative
    kept = [path.name for path in (got.output_dir / "checkpoints").glob("*")]
    assert kept == [path.name for path in (wanted.output_dir / "checkpoints").glob("*")]


def assert_same_state(got: Parties, wanted: Parties) -> None:
    """Adapters, moments, streams, versions, cuts, what was counted: all that a next round starts from."""
    (values, tensors), (other_values, others) = pack(got.state()), pack(wanted.state())
    assert values == other_values
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[path], others[path]) for path in tensors)


@pytest.mark.parametrize("mode", rest_slow(MODES, ["cuts move", "algorithms"]))
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    mode: str, setting: Settings, watched: list[Parties], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = setting | MODES[mode]
    wanted = finish(settings, tmp_path / "whole")
    averages = settings.get("method") not in ("local_only", "centralized")
    point = "server.aggregate:3" if averages else "server.step:20"
    monkeypatch.setenv(VARIABLE, f"{point}:interrupt")
    with pytest.raises(KeyboardInterrupt):
        finish(settings, tmp_path / "run")
    monkeypatch.delenv(VARIABLE)
    done = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert done["interrupted"] and 0 < done["rounds"] < ROUNDS
    got = finish(settings, tmp_path / "run", resume=True)
    assert_same_run(got, wanted)
    assert_same_state(watched[-1], watched[0])


# Killed, as by a loss of power: real processes


def start(job: Path, *options: str, points: str = "") -> tuple[int | None, str]:
    """Run a job to its end; return how it ended and what it said."""
    log = job.with_suffix(".log")
    process = start_command(["run", job, *options], log, points=points)
    process.join(300)
    return process.exitcode, log.read_text(errors="replace")


@pytest.fixture(scope="module")
def killed(setting: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, Settings]:
    """A run that nobody stops, and its settings: moving cuts, ranks that follow them, clients in turns."""
    settings = setting | MODES["cuts move"] | {"order": "turns", "eval_every": 1}
    return finish(settings, tmp_path_factory.mktemp("whole") / "run"), settings


PLACES = ["server.step:30"]
MORE_PLACES = [
    "checkpoint.renamed:3", "server.aggregate:2", "run.recorded:3", "checkpoint.tensors.safetensors:3",
    "checkpoint.state.json:2", "checkpoint.manifest.json:1", "checkpoint.written:2", "checkpoint.flushed:4",
]  # fmt: skip


def resumed(job: Path, folder: Path, killed: RunResult) -> None:
    """Go on, to the end that the other run had; what is on the disk must do."""
    code, text = start(job, "--resume")
    assert code == 0, text
    wanted = [timeless(record) for record in killed.history]
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert [timeless(RoundRecord.from_json(line)) for line in lines] == wanted
    for name in ("adapter/adapter_model.safetensors", "decisions.jsonl"):
        assert (folder / name).read_bytes() == (killed.output_dir / name).read_bytes(), name


@pytest.mark.parametrize(
    "place", [*PLACES, *(pytest.param(place, marks=pytest.mark.slow) for place in MORE_PLACES)]
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    place: str, killed: tuple[RunResult, Settings], tmp_path: Path
) -> None:
    result, settings = killed
    job, folder = tmp_path / "job.yaml", tmp_path / "run"
    dump_job(Job(**settings, output_dir=str(folder)), job)
    code, text = start(job, points=f"{place}:kill")
    assert code == -signal.SIGKILL, text
    resumed(job, folder, result)


# What --resume meets


def cut_off(settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    monkeypatch.setenv(VARIABLE, f"{point}:interrupt")
    with pytest.raises(KeyboardInterrupt):
        finish(settings, folder)
    monkeypatch.delenv(VARIABLE)


def test_where_there_is_no_run_a_new_one_starts(setting: Settings, tmp_path: Path) -> None:
    short = setting | {"rounds": 1, "warmup_steps": 0}
    got = finish(short, tmp_path / "run", resume=True)
    assert_same_run(got, finish(short, tmp_path / "other"))


def test_a_run_without_a_checkpoint_yet_starts_again(
    setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = setting | {"rounds": 2, "save_every": 0}
    cut_off(short, tmp_path / "run", monkeypatch, "server.aggregate:2")
    got = finish(short, tmp_path / "run", resume=True)
    assert_same_run(got, finish(short, tmp_path / "other"))


def test_a_complete_run_is_returned_as_it_is(
    setting: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = setting | {"rounds": 1, "warmup_steps": 0}
    wanted = finish(short, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    got = run(Job(**short, output_dir=str(tmp_path / "run")), resume=True)
    assert "is complete" in " ".join(capsys.readouterr().out.split())
    assert got.history == wanted.history
    assert got.summary == json.loads(json.dumps(wanted.summary))
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_damaged_checkpoint_is_passed_over_and_named(
    setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = finish(setting, tmp_path / "whole")
    cut_off(setting, tmp_path / "run", monkeypatch, "server.aggregate:4")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    (newest / "tensors.safetensors").write_bytes(b"torn")
    got = run(Job(**setting, output_dir=str(tmp_path / "run")), resume=True)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{newest.name}: tensors.safetensors is damaged" in said and "going on after round 2" in said
    assert_same_run(got, wanted)


def test_what_cannot_go_on_is_refused_and_loses_nothing(
    setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "rows.txt"
    data.write_text(Path(setting["data_files"]).read_text())
    settings, folder = setting | {"data_files": str(data)}, tmp_path / "run"
    cut_off(settings, folder, monkeypatch, "server.aggregate:3")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    with pytest.raises(OutputError, match=r"already holds a run .*--resume"):
        finish(settings, folder)
    with pytest.raises(JobError, match=r"another job \(learning_rate: 0.005, now 0.1\)"):
        finish(settings | {"learning_rate": 0.1}, folder, resume=True)
    data.write_text(data.read_text() + "\n\nwe the people")
    with pytest.raises(DataError, match="data are not those of the run"):
        finish(settings, folder, resume=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    for path in (folder / "checkpoints").iterdir():
        (path / "state.json").unlink()
    data.write_text(Path(setting["data_files"]).read_text())
    with pytest.raises(OutputError, match=r"no checkpoint in .* is whole"):
        finish(settings, folder, resume=True)
