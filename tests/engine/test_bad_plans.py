"""Plans, comparisons and reports that cannot be made: one clear message, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_jobs import Settings, assert_one_message, devices, refused, write_job

from commands import hashes


@pytest.mark.parametrize(("arguments", "wanted"), [
    (["--clients", "100"], ("--clients and --mix go together", "--mix phone=0.6")),
    (["--mix", "phone=1"], ("--clients and --mix go together",)),
    (["--clients", "0", "--mix", "phone=1"], ("0 clients", "from 1 on")),
    (["--clients", "9", "--mix", "phone"], ("--mix phone", "phone=0.6,laptop=0.4")),
    (["--clients", "9", "--mix", "fone=1"], ("--mix: there is no device 'fone'", "did you mean phone?")),
    (["--clients", "9", "--mix", "phone=1", "method=fed_lora"], ("method fed_lora",)),
    (["gama=1"], ("gama", "unknown key")),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")  # fmt: skip
def test_a_plan_that_cannot_be_made(
    arguments: list[str],
    wanted: tuple[str, ...],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = write_job(settings, tmp_path)
    told = refused(monkeypatch, capsys, "plan", job, *arguments, "--out", tmp_path / "plan")
    assert_one_message(told, wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_a_mix_with_a_device_that_is_too_small(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    devices(settings, memory_gb=1e-6)
    settings["devices"] = "laptop"
    job = write_job(settings, tmp_path)
    told = refused(monkeypatch, capsys, "plan", job, "--clients", "20", "--mix", "laptop=0.9,mine=0.1")
    assert_one_message(told, ("device mine", "1e-06 GB", "1 block "))


@pytest.mark.parametrize(("arguments", "wanted"), [
    (["--methods", "same_split,makspan"], ("'makspan'", "did you mean makespan?")),
    (["--methods", "fed_lora,fed_lora"], ("fed_lora is given twice",)),
    (["--methods", "makespan"], ("makespan", "devices")),
    (["--vary", "lora_rcut=[1,2]"], ("lora_rcut", "unknown key", "lora_r_cut")),
    (["--vary", "cut_policy.gama=[0,1]"], ("cut_policy.gama", "did you mean gamma?")),
    (["--vary", "lora_r_cut=4"], ("--vary lora_r_cut", "KEY=[V1,V2,...]")),
    (["--vary", "cut_policy.gamma=[0.5,-1]"], ("cut_policy.gamma", "≥ 0", "-1")),
    (["--vary", "devices=[laptop,lapptop]"], ("there is no device 'lapptop'", "did you mean laptop?")),
    (["--vary", "seed=[1,2]"], ("--vary seed", "--seeds N")),
    (["--seeds", "0"], ("--seeds: at least 1, not 0",)),
    (["--parallel", "0"], ("--parallel: at least 1, not 0",)),
    (["roundz=3"], ("roundz", "did you mean rounds?")),
    (["--seeds", "0", "--methods", "x", "rounds=0"], ("3 problems", "--seeds", "'x'", "rounds")),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")  # fmt: skip
def test_a_comparison_that_cannot_be_made(
    arguments: list[str],
    wanted: tuple[str, ...],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = write_job(settings, tmp_path)
    told = refused(monkeypatch, capsys, "compare", job, *arguments, "--out", tmp_path / "compared")
    assert_one_message(told, (*wanted, "nothing was started"))
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_a_report_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    before = hashes(tmp_path)
    for name in ("empty", "file", "missing"):
        told = refused(monkeypatch, capsys, "report", tmp_path / name, "--out", tmp_path / "page.html")
        assert_one_message(told, (name, "output_dir", "folder of runs"))
    assert hashes(tmp_path) == before
