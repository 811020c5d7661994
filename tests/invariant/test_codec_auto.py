"""`codec: auto` in whole runs: int8 first, then what was chosen; over connections, and when resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import adapter_of, result_of

from network_threads import QUIET, Settings, together
from reference import make_setting, write_rows
from splitft import Job, JobError, load_job, run
from splitft.common.failpoints import VARIABLE
from splitft.job import dump_job

NAMES = ["anna", "bert"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("auto")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=20, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama", num_hidden_layers=4, hidden_size=64) | {
        "data_files": files, "rounds": 3, "local_steps": 3, "cuts": [1, 2], "labels": "server",
        "max_eval_samples": None, "partition": {"method": "files"}, "network": {"clients": NAMES},
        "warmup_steps": 0, "codec": "auto",
    }  # fmt: skip


def test_over_connections_as_in_one_process(setting: Settings, tmp_path: Path) -> None:
    here, there = result_of(setting, tmp_path / "local"), together(setting, tmp_path)
    found = [json.loads((folder / "summary.json").read_text()) for folder in (here.output_dir, there)]
    assert adapter_of(here.output_dir) == adapter_of(there)
    assert found[0]["bytes"] == found[1]["bytes"] and found[0]["codecs"] == found[1]["codecs"]
    choice = found[0]["codecs"]
    assert choice["codec"] in ("int4", "int3") and choice["gradient_codec"] == "int2" and choice["why"]
    assert {trial["codec"] for trial in choice["trials"]} == {"bf16", "int8", "int4", "int3", "int2"}
    ups = [record.bytes["up"]["activations"] for record in here.history[1:]]
    assert ups[1] < 0.7 * ups[0] and ups[2] < 0.7 * ups[0]


def test_a_budget_of_bytes_is_kept(setting: Settings, tmp_path: Path) -> None:
    settings = setting | {"rounds": 2}
    result = result_of(settings, tmp_path / "run", codec_budget={"step_mb": 0.008})
    sent = result.history[2].bytes
    steps = settings["local_steps"] * len(NAMES)
    a_step = (sent["up"]["activations"] + sent["down"]["gradients"]) / steps
    assert result.summary["codecs"]["codec"] == "int8" or a_step > 0.004
    assert a_step < 1.3 * 8000  # batches differ in length


def test_a_run_that_was_cut_off_does_not_choose_again(
    setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = result_of(setting, tmp_path / "whole")
    job = Job(**setting, output_dir=str(tmp_path / "run"))
    monkeypatch.setenv(VARIABLE, "run.recorded:3:interrupt")
    with pytest.raises(KeyboardInterrupt):
        run(job, console=QUIET)
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("splitft.server.codec_trial.measure", None)  # would fail
    resumed = run(job, console=QUIET, resume=True)
    assert adapter_of(resumed.output_dir) == adapter_of(whole.output_dir)
    assert resumed.summary["bytes"] == whole.summary["bytes"]
    assert json.dumps(resumed.summary["codecs"]) == json.dumps(whole.summary["codecs"])


@pytest.mark.parametrize("changes", [
    {"train_front": False}, {"labels": "client", "tail_blocks": 1}, {"gradient_codec": "auto"},
], ids=["frozen", "labels at home", "gradients"])  # fmt: skip
def test_what_cannot_be_is_told(changes: Settings, setting: Settings, tmp_path: Path) -> None:
    dump_job(Job(**setting), tmp_path / "job.yaml")
    with pytest.raises(JobError, match="auto"):
        load_job(tmp_path / "job.yaml", [f"{key}={json.dumps(value)}" for key, value in changes.items()])
