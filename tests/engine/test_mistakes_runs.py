"""Mistakes of real people with job files and folders of runs: one clear line each, and its exit code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_jobs import QUIET, Settings, assert_one_message, write_job

from commands import hashes
from splitft import Job, run
from splitft.common.lock import lock_folder
from splitft.launch import cli


@pytest.fixture(scope="module")
def finished(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Path]:
    """A complete run of two rounds, to be copied."""
    settings = {
        "model_name_or_path": str(shared / "model"), "data_files": str(shared / "rows.txt"), "max_length": 32,
        "clients": 2, "rounds": 2, "local_steps": 1, "cuts": 2, "lora_r": 4, "use_cpu": True,
        "max_eval_samples": 4,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(Job(**settings, output_dir=str(folder)), console=QUIET)
    return settings, folder


Mistake = tuple[list[str], int, tuple[str, ...]]  # the command, its exit code, and words of its line
Case = Callable[[Settings, Path], Mistake]


def job_with(job: Settings, folder: Path, *words: str, **changes: object) -> list[str]:
    return ["run", str(write_job(job | changes, folder)), *words]


# Keys and values


def typo_in_a_key(job: Settings, folder: Path) -> Mistake:
    return job_with(job, folder, learnin_rate=1e-3), 2, ("learnin_rate", "did you mean learning_rate?")


def typo_in_an_override(job: Settings, folder: Path) -> Mistake:
    return job_with(job, folder, "partition.alfa=0.1"), 2, ("partition.alfa", "did you mean alpha?")


def key_of_another_group(job: Settings, folder: Path) -> Mistake:
    return job_with(job, folder, "alpha=0.1"), 2, ("alpha", "partition.alpha")


def text_for_a_number(job: Settings, folder: Path) -> Mistake:
    return job_with(job, folder, rounds="ten"), 2, ("rounds: must be an integer", "'ten'")


def number_in_quotes(job: Settings, folder: Path) -> Mistake:
    return job_with(job, folder, 'lora_r="8"'), 2, ("lora_r: must be an integer", "'8'")


def percentage(job: Settings, folder: Path) -> Mistake:
    return job_with(job, folder, "eval_fraction=10%"), 2, ("eval_fraction: must be a number", "'10%'")


def spaces_around_the_sign(job: Settings, folder: Path) -> Mistake:
    return job_with(job, folder, "rounds", "=", "3"), 2, ("rounds = 3: write rounds=3, without spaces",)


def negative_steps(job: Settings, folder: Path) -> Mistake:
    return job_with(job, folder, max_steps=-1), 2, ("max_steps: must be an integer ≥ 1 or null",)


def steps_that_are_no_rounds(job: Settings, folder: Path) -> Mistake:
    changes = {"max_steps": 25, "local_steps": 10}
    return job_with(job, folder, **changes), 2, ("max_steps: 25 is no whole number of rounds", "set 20 or 30")


def steps_and_epochs(job: Settings, folder: Path) -> Mistake:
    return (
        job_with(job, folder, max_steps=2, num_train_epochs=1),
        2,
        ("max_steps or num_train_epochs, not both",),
    )


def epochs_over_a_network(job: Settings, folder: Path) -> Mistake:
    path = write_job(job | {"num_train_epochs": 1, "labels": "server"}, folder)
    return ["server", str(path)], 2, ("num_train_epochs counts rows", "set rounds or max_steps")


# Files


def indented_with_a_tab(job: Settings, folder: Path) -> Mistake:
    (folder / "job.yaml").write_text("partition:\n\tmethod: iid\n", encoding="utf-8")
    return ["run", str(folder / "job.yaml")], 2, ("not valid YAML: line 2, column 1",)


def key_without_a_space(job: Settings, folder: Path) -> Mistake:
    (folder / "job.yaml").write_text("rounds:3\n", encoding="utf-8")
    return ["run", str(folder / "job.yaml")], 2, ("not a job", "`key: value` lines")


def key_twice(job: Settings, folder: Path) -> Mistake:
    path = write_job(job, folder)
    path.write_text(path.read_text() + "rounds: 3\n", encoding="utf-8")
    return ["run", str(path)], 2, ("rounds: given twice",)


def empty_file(job: Settings, folder: Path) -> Mistake:
    (folder / "job.yaml").write_text("", encoding="utf-8")
    return ["run", str(folder / "job.yaml")], 2, ("the file is empty",)


def folder_for_a_job(job: Settings, folder: Path) -> Mistake:
    return ["run", str(folder)], 2, ("cannot read", "Is a directory")


def unknown_recipe(job: Settings, folder: Path) -> Mistake:
    return ["run", "quikstart"], 2, ("no file quikstart, nor a recipe", "`splitft new` lists")


def new_from_an_unknown_recipe(job: Settings, folder: Path) -> Mistake:
    return ["new", "quikstart", str(folder / "mine.yaml")], 2, ("did you mean quickstart?",)


def new_over_a_file(job: Settings, folder: Path) -> Mistake:
    return ["new", "quickstart", str(write_job(job, folder))], 5, ("is there already", "name another")


# Folders of runs


def folder_of_a_finished_run(job: Settings, folder: Path) -> Mistake:
    return (
        job_with(job, folder),
        5,
        ("already holds a run", "extend it (rounds=MORE --resume)", "output_dir="),
    )


def folder_in_use(job: Settings, folder: Path) -> Mistake:
    return (
        job_with(job, folder, output_dir=str(folder / "busy")),
        5,
        (f"in use by process {os.getpid()} on ",),
    )


def folder_that_is_a_file(job: Settings, folder: Path) -> Mistake:
    (folder / "file").write_text("mine", encoding="utf-8")
    return job_with(job, folder, output_dir=str(folder / "file")), 5, ("output_dir", "choose another")


def folder_where_nobody_may_write(job: Settings, folder: Path) -> Mistake:
    return (
        job_with(job, folder, output_dir="/proc/mine"),
        5,
        ("/proc/mine cannot be written", "choose another"),
    )


def resume_with_fewer_rounds(job: Settings, folder: Path) -> Mistake:
    return (
        job_with(job, folder, "--resume", rounds=1),
        2,
        ("is of 2 rounds", "now asks for 1", "rounds=2 or more"),
    )


def resume_with_another_rank(job: Settings, folder: Path) -> Mistake:
    return (
        job_with(job, folder, "--resume", lora_r=8),
        2,
        ("another job (lora_r: 4, now 8)", "job.yaml --resume"),
    )


def resume_by_a_key(job: Settings, folder: Path) -> Mistake:
    return job_with(job, folder, "resume_from_checkpoint=true"), 2, ("give --resume to `splitft run`",)


def extension_without_a_state(job: Settings, folder: Path) -> Mistake:
    shutil.rmtree(folder / "run" / "checkpoints")
    return job_with(job, folder, "--resume", rounds=3), 5, ("has kept no state", "adapter_name_or_path=")


def export_of_no_run(job: Settings, folder: Path) -> Mistake:
    (folder / "empty").mkdir()
    return ["export", str(folder / "empty")], 2, ("holds no adapter; give the output_dir of a run",)


def export_over_a_folder(job: Settings, folder: Path) -> Mistake:
    return (
        ["export", str(folder / "run"), str(folder / "run" / "adapter")],
        5,
        ("exists already", "another folder"),
    )


def report_of_no_run(job: Settings, folder: Path) -> Mistake:
    (folder / "empty").mkdir()
    return ["report", str(folder / "empty")], 2, ("empty",)


def comparison_of_no_jobs(job: Settings, folder: Path) -> Mistake:
    path = write_job(job, folder)
    return ["compare", str(path), "--vary", "rounds=2"], 2, ("rounds", "nothing was started")


CASES: list[Case] = [
    typo_in_a_key, typo_in_an_override, key_of_another_group, text_for_a_number, number_in_quotes,
    percentage, spaces_around_the_sign, negative_steps, steps_that_are_no_rounds, steps_and_epochs,
    epochs_over_a_network, indented_with_a_tab, key_without_a_space, key_twice, empty_file,
    folder_for_a_job, unknown_recipe, new_from_an_unknown_recipe, new_over_a_file,
    folder_of_a_finished_run, folder_in_use, folder_that_is_a_file, folder_where_nobody_may_write,
    resume_with_fewer_rounds, resume_with_another_rank, resume_by_a_key, extension_without_a_state,
    export_of_no_run, export_over_a_folder, report_of_no_run, comparison_of_no_jobs,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_mistake_gets_one_line_and_its_exit_code(
    case: Case,
    finished: tuple[Settings, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings, folder = finished
    shutil.copytree(folder, tmp_path / "run")
    with lock_folder(tmp_path / "busy", "output_dir"):
        command, code, words = case(settings | {"output_dir": str(tmp_path / "run")}, tmp_path)
        before = hashes(tmp_path)
        monkeypatch.setattr("sys.argv", ["splitft", *command])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        error = capsys.readouterr().err
        assert stop.value.code == code, error
        assert_one_message(error, words)
        assert len(error.strip().splitlines()) <= 2, "a heading and its problem at most"
        assert hashes(tmp_path) == before
