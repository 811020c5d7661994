"""What a run leaves is its user's alone: no other user of the machine can read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from forks import run_command
from reference import make_setting
from splitft import Job, run
from splitft.job import dump_job
from splitft.running.export import export_command


@pytest.fixture
def job(tmp_path: Path) -> Path:
    setting = make_setting(tmp_path, "llama", num_hidden_layers=3) | {"clients": 2, "rounds": 1, "cuts": 1}
    setting |= {"local_steps": 1, "warmup_steps": 0, "codec": "delta", "labels": "client"}
    dump_job(Job(**setting, output_dir=str(tmp_path / "runs" / "mine")), tmp_path / "job.yaml")
    return tmp_path / "job.yaml"


def open_to_others(folder: Path) -> dict[str, str]:
    """The files and folders in it, and itself, that other users can do anything with."""
    paths = [folder, *folder.rglob("*")]
    modes = {str(path.relative_to(folder)): path.stat().st_mode for path in paths}
    return {path: stat.filemode(mode) for path, mode in modes.items() if mode & 0o077}


def test_no_other_user_can_read_what_a_command_writes(job: Path) -> None:
    done = run_command("run", job, timeout=120)
    assert done.returncode == 0, done.stderr
    folder = job.parent / "runs" / "mine"
    assert len([*folder.rglob("*.safetensors")]) > 1
    assert open_to_others(folder) == {}


def test_a_run_from_python_makes_a_folder_that_no_other_user_enters(job: Path) -> None:
    before = os.umask(0)
    try:
        folder = run(job).output_dir
    finally:
        os.umask(before)
    assert stat.filemode(folder.stat().st_mode) == "drwx------"


def test_a_folder_that_is_there_keeps_who_may_enter_it(job: Path) -> None:
    folder = job.parent / "runs" / "mine"
    folder.mkdir(parents=True, mode=0o750)
    folder.chmod(0o750)
    run(job)
    assert stat.filemode(folder.stat().st_mode) == "drwxr-x---"


def test_checkpoints_and_adapters_are_their_owners_alone_whatever_the_folder(job: Path) -> None:
    """A run from Python, in a folder that others can enter, with a umask that lets them read."""
    folder = job.parent / "runs" / "mine"
    before = os.umask(0)
    try:
        folder.mkdir(parents=True, mode=0o755)
        run(job)
        export_command(folder, job.parent / "exported", merge=False)
    finally:
        os.umask(before)
    for kept in (folder / "checkpoints", folder / "adapter"):
        assert stat.filemode(kept.stat().st_mode) == "drwx------"
    files = [*folder.rglob("*.safetensors"), *(folder / "checkpoints").rglob("*.json")]
    assert len(files) > 3 and {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (job.parent / "exported" / "adapter_model.safetensors").stat().st_mode & 0o044


def test_what_is_made_for_others_keeps_the_users_own_habit(tmp_path: Path) -> None:
    done = run_command("new", "quickstart", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine.yaml").stat().st_mode & 0o044
