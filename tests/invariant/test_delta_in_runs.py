"""`codec: delta` in whole runs: the same wherever the clients are, and as never cut off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import result_of

from cases import rest_slow
from network_threads import QUIET, Settings, together
from reference import make_setting, write_rows
from run_files import adapter_of
from splitft import Job, JobError, load_job, run
from splitft.common.failpoints import VARIABLE
from splitft.data import prepare, train_stream
from splitft.job import dump_job
from splitft.weights.load import load_tokenizer
from splitft.wire.channel import sample_memory

NAMES = ["anna", "bert", "carl"]
WIDTH = 64
MODES: dict[str, Settings] = {
    "labels at the server": {},
    "labels at home, shared, little memory": {
        "labels": "client", "tail_blocks": 1, "server_adapter": "shared", "activation_cache_gb": 1e-5,
    },
    "turns, accumulation, dropout, cuts that move": {
        "order": "turns", "gradient_accumulation_steps": 2, "lora_dropout": 0.1, "delta_bits": 1,
        "local_steps": 2, "cut_policy": {"method": "schedule", "schedule": {"1": 1, "2": 2}, "max_step": 3},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("delta")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=11, seed=i)) for i, name in enumerate(NAMES)}
    return make_setting(folder, "llama", num_hidden_layers=4, hidden_size=WIDTH) | {
        "data_files": files, "rounds": 3, "local_steps": 4, "cuts": [1, 2, 2], "labels": "server",
        "max_eval_samples": None, "partition": {"method": "files"}, "network": {"clients": NAMES},
        "warmup_steps": 0, "codec": "delta",
    }  # fmt: skip


@pytest.mark.parametrize("mode", rest_slow(MODES, ["labels at home, shared, little memory"]))
def test_over_connections_as_in_one_process(mode: str, setting: Settings, tmp_path: Path) -> None:
    settings = setting | MODES[mode]
    here, there = result_of(settings, tmp_path / "local"), together(settings, tmp_path)
    assert adapter_of(here.output_dir) == adapter_of(there)
    assert json.loads((there / "summary.json").read_text())["bytes"] == here.summary["bytes"]


def test_every_time_but_the_first_goes_as_a_difference(setting: Settings, tmp_path: Path) -> None:
    """Counted by the parts of each batch: int4 of the samples that are new, differences of the others."""
    job = Job(**setting)
    tokenizer = load_tokenizer(job.model_name_or_path, "main")
    whole = difference = 0
    for data in prepare(job, tokenizer).clients:
        stream, seen = train_stream(job, data.name, data.train), set[int]()
        for _ in range(job.rounds * job.local_steps):
            batch = next(stream).tolist()
            for known in (False, True):
                lengths = [int(data.train.lengths[i]) for i in batch if (i in seen) == known]
                tokens, samples = sum(lengths), len(lengths)
                if known and samples:  # scales, bits, places and scales of 8 outliers, outliers
                    difference += tokens * (2 + 8) + 8 * (4 + 2) + tokens * 8
                elif samples:
                    rest = tokens - samples  # a scale, 4 bits, outliers, a level; first tokens as int8
                    whole += rest * (2 + 32 + 8 + 1) + 8 * (4 + 2) + samples * (64 + 2)
            seen.update(batch)
    traffic = result_of(setting, tmp_path / "run").summary["bytes"]
    assert traffic["up"]["activations"] == whole + difference and difference > whole
    plain = result_of(setting, tmp_path / "int4", codec="int4", gradient_codec="int2").summary["bytes"]
    assert traffic["down"] == plain["down"]
    assert traffic["up"]["activations"] < 0.8 * plain["up"]["activations"]


@pytest.mark.parametrize("mode", rest_slow(MODES, ["turns, accumulation, dropout, cuts that move"]))
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(
    mode: str, setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = result_of(setting | MODES[mode], tmp_path / "whole")
    job = Job(**setting | MODES[mode], output_dir=str(tmp_path / "run"))
    monkeypatch.setenv(VARIABLE, "run.recorded:3:interrupt")
    with pytest.raises(KeyboardInterrupt):
        run(job, console=QUIET)
    monkeypatch.delenv(VARIABLE)
    resumed = run(job, console=QUIET, resume=True)
    assert adapter_of(resumed.output_dir) == adapter_of(whole.output_dir)
    assert resumed.summary["bytes"] == whole.summary["bytes"]


def test_a_client_that_kept_something_else_is_found_out(setting: Settings) -> None:
    memory = sample_memory(Job(**setting), WIDTH)
    memory.mark()
    with pytest.raises(ValueError, match="memory"):
        memory.accept("ab" * 16)
    memory.accept("")
    other = sample_memory(Job(**setting), WIDTH)
    assert other.agree("ab" * 16) == ""


@pytest.mark.parametrize(("changes", "problem"), [
    ({"train_front": False}, "nothing does"),
    ({"gradient_codec": "delta"}, "is for codec"),
    ({"eval_codec": "delta"}, "is for codec"),
])  # fmt: skip
def test_what_cannot_be_is_told(changes: Settings, problem: str, setting: Settings, tmp_path: Path) -> None:
    dump_job(Job(**setting), tmp_path / "job.yaml")
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    with pytest.raises(JobError, match=problem):
        load_job(tmp_path / "job.yaml", overrides)
