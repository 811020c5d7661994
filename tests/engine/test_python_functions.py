"""The commands from Python: the shell's behaviour, with objects in place of texts."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
from bad_jobs import QUIET, Settings, write_job
from transformers import AutoTokenizer

import splitft
from forks import run_command
from splitft import Job, JobError, ModelError


def test_run_takes_a_job_a_file_a_recipe_and_a_dict(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_job(settings, tmp_path)
    wanted = splitft.run(Job(**settings), console=QUIET)
    sources = ["job.yaml", Path("job.yaml"), dict(settings), Job(**settings)]
    for number, source in enumerate(sources):
        got = splitft.run(source, console=QUIET, output_dir=f"out-{number}")
        assert [record.loss for record in got.history] == [record.loss for record in wanted.history]
    assert settings["output_dir"] == str(tmp_path / "out"), "the dict is the caller's"
    # A recipe, as the shell takes it: all its keys changed to this job's.
    got = splitft.run("fixed-cuts", console=QUIET, **settings | {
        "output_dir": "of-recipe", "dataset_name": None, "document_column": None, "bf16": False,
        "max_eval_samples": 4, "lora_r_cut": None, "partition.method": "iid", "lora_target_modules": None,
        "cut_policy": {}, "devices": None,
    })  # fmt: skip
    assert len(got.history) == 2


def test_a_job_is_a_job_after_copies_and_pickles(settings: Settings) -> None:
    job = Job(**settings)
    assert pickle.loads(pickle.dumps(job)) == copy.deepcopy(job) == copy.copy(job) == job.model_copy() == job
    assert job.model_copy(update={"rounds": 3}).rounds == 3
    assert Job.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize("wrong", [
    {"rounds": "many"}, {"learning_rat": 0.1}, {"lora_r": 4, "lora_r_cut": 8}, {"rounds": 0, "epochs": 3},
    {"max_steps": 3, "local_steps": 2},
], ids=str)  # fmt: skip
def test_python_and_the_shell_have_the_same_words(
    wrong: Settings, settings: Settings, tmp_path: Path
) -> None:
    path = write_job(settings | wrong, tmp_path)
    lines = run_command("run", path).stderr.removeprefix("error: ").strip().split("\n")
    assert lines[0].startswith(f"{path}: ")
    heading = lines[0].replace(str(path), "Job")
    for make in (
        lambda: Job(**settings | wrong),
        lambda: splitft.run(settings | wrong),
        lambda: splitft.run(Job(**settings), **wrong),
        lambda: splitft.plan(settings, **wrong),
        lambda: splitft.check(Job(**settings), **wrong),
    ):
        with pytest.raises(JobError) as caught:
            make()
        assert str(caught.value).split("\n") == [heading, *lines[1:]]


def test_plan_returns_the_tables(settings: Settings, tmp_path: Path) -> None:
    plan = splitft.plan(settings, out=tmp_path / "plan", console=QUIET, rounds=2)
    assert [row["cut"] for row in plan["cuts"]] == [1, 2, 3]
    assert len(plan["rounds"]) == 3
    assert plan == json.loads((tmp_path / "plan" / "plan.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_compare_report_and_export_return_what_they_made(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = splitft.compare(
        Job(**settings),
        methods=["splitft", "local_only"],
        vary={"lora_alpha": [8]},
        out=tmp_path / "compared",
    )
    assert (compared.exit_code, compared.failed) == (0, {})
    assert len(compared.runs) == 2 and all((run / "summary.json").exists() for run in compared.runs.values())
    assert not any((run / "checkpoints").exists() for run in compared.runs.values())
    assert compared.report is not None and compared.report.exists()
    assert compared.results == json.loads((tmp_path / "compared/results.json").read_text(encoding="utf-8"))
    page = splitft.report(
        list(compared.runs.values()), out=tmp_path / "page.html", title="Two", console=QUIET
    )
    assert page == tmp_path / "page.html" and "Two" in page.read_text(encoding="utf-8")
    result = splitft.run(settings, console=QUIET)
    assert splitft.report(result, console=QUIET) == result.output_dir / "report.html"
    exported = splitft.export(result, tmp_path / "exported")
    assert exported == tmp_path / "exported" and AutoTokenizer.from_pretrained(exported)
    assert splitft.export(result.output_dir) == result.output_dir / "export"
    with pytest.raises(JobError, match="not every variant is a job"):
        splitft.compare(settings, vary={"lora_r_cut": [2, 8]}, out=tmp_path / "wrong")
    with pytest.raises(JobError, match="holds no adapter"):
        splitft.export(tmp_path)


def test_check_takes_a_model_and_a_job(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    of_model = splitft.check(settings["model_name_or_path"], cuts=[1])
    assert isinstance(of_model, splitft.SplitReport) and of_model.ok and of_model.cuts == (1,)
    of_job = splitft.check(Job(**settings))
    assert not isinstance(of_job, splitft.SplitReport) and of_job.rank == 4
    assert "exact" in capsys.readouterr().out
    with pytest.raises(ModelError, match="nothing"):
        splitft.check("./nothing")
    with pytest.raises(JobError, match="a job is a Job, a dict of its keys"):
        splitft.run(3)  # type: ignore[arg-type]
