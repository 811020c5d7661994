"""`train_front: false`: no gradient comes down, a sample's activations go up once; nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from runs import result_of
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cases import rest_slow
from network_threads import QUIET, Settings, together
from reference import TARGETS, federated_lora, make_setting, write_rows
from run_files import adapter_of
from splitft import Job, JobError, ModelError, load_job, run
from splitft.common.failpoints import VARIABLE
from splitft.data import prepare, train_stream
from splitft.engines.network.control import packed
from splitft.weights.load import load_tokenizer
from splitft.wire.messages import Activations

NAMES = ["anna", "bert", "carl"]
FROZEN, BLOCKS, WIDTH = 2, 4, 64
SENT = {"none": 4 * WIDTH, "int8": WIDTH + 2}  # bytes of a token's activations


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("frozen")
    files = {name: str(write_rows(folder / f"{name}.txt", rows=24, seed=i)) for i, name in enumerate(NAMES)}
    made = make_setting(folder, "llama", num_hidden_layers=BLOCKS, hidden_size=WIDTH)
    return made | {
        "data_files": files, "rounds": 4, "local_steps": 6, "cuts": [1, 2, 2], "labels": "server",
        "max_eval_samples": None, "partition": {"method": "files"}, "network": {"clients": NAMES},
        "warmup_steps": 0, "train_front": False,
        "adapter_name_or_path": str(partial_adapter(folder, made["model_name_or_path"])),
    }  # fmt: skip


def partial_adapter(folder: Path, model: str) -> Path:
    """Write a random stock adapter of the blocks that are trained."""
    torch.manual_seed(3)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=TARGETS["llama"], layers_to_transform=list(range(FROZEN, BLOCKS)),
        init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    get_peft_model(base, config).save_pretrained(str(folder / "partial"))
    return folder / "partial"


def seen(settings: Settings) -> tuple[int, int]:
    """Return (tokens of all training batches, tokens of the different samples in them)."""
    job = Job(**settings)
    tokenizer = load_tokenizer(job.model_name_or_path, "main")
    every = once = 0
    for data in prepare(job, tokenizer).clients:
        stream, different = train_stream(job, data.name, data.train), dict[int, int]()
        for _ in range(job.rounds * job.local_steps * job.gradient_accumulation_steps):
            for sample in next(stream).tolist():
                different[sample] = int(data.train.lengths[sample])
                every += different[sample]
        once += sum(different.values())
    return every, once


@pytest.mark.parametrize("changes", rest_slow([
    {"labels": "client", "tail_blocks": 1},
    {"gradient_accumulation_steps": 2},
    {},
], 1), ids=["labels at home", "accumulation", "labels at the server"])  # fmt: skip
def test_it_is_lora_on_the_blocks_above(changes: Settings, setting: Settings, tmp_path: Path) -> None:
    """Without a cache to the last bit: federated LoRA on stock peft models, with `layers_to_transform`."""
    settings = setting | changes
    wanted, losses = federated_lora(Job(**settings))
    result = result_of(settings, tmp_path / "run", activation_cache_gb=0)
    got = load_file(result.adapter_path / "adapter_model.safetensors")
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert len(losses) == settings["rounds"]
    cached = load_file(result_of(settings, tmp_path / "cached").adapter_path / "adapter_model.safetensors")
    start = load_file(Path(setting["adapter_name_or_path"]) / "adapter_model.safetensors")
    for name in wanted:  # one by one at the client, where a batch was padded: rounded otherwise
        moved = (wanted[name] - start[name]).norm()
        assert (cached[name] - wanted[name]).norm() <= 1e-3 * moved, name


def test_dropout_is_of_the_trained_blocks_alone(tmp_path: Path) -> None:
    """A frozen front has none where its activations are kept: they would be another sample's next time."""
    settings = make_setting(tmp_path, "gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5) | {
        "clients": 2, "rounds": 2, "local_steps": 2, "cuts": 2, "warmup_steps": 0, "train_front": False,
        "adapter_name_or_path": None,
    }  # fmt: skip
    once = result_of(settings, tmp_path / "run")
    assert adapter_of(result_of(settings, tmp_path / "again").output_dir) == adapter_of(once.output_dir)


@pytest.mark.parametrize("codec", rest_slow(["int8", "none"], 1))
def test_a_sample_goes_up_once_and_no_gradient_comes_down(
    codec: str, setting: Settings, tmp_path: Path
) -> None:
    every, once = seen(setting)
    assert every > 2 * once
    traffic = result_of(setting, tmp_path / "run", codec=codec).summary["bytes"]
    assert traffic["up"]["activations"] == once * SENT[codec] and traffic["up"]["labels"] == once * 4
    assert traffic["down"]["gradients"] == 0
    uncached = result_of(setting, tmp_path / "uncached", codec=codec, activation_cache_gb=0).summary["bytes"]
    assert uncached["up"]["activations"] == every * SENT[codec]
    small = once * (4 * WIDTH + 4) / 6 / 1e9  # a sixth of all, for each of three: half of it
    job = Job(**setting | {"codec": codec, "activation_cache_gb": small}, output_dir=str(tmp_path / "small"))
    result = run(job, console=QUIET)
    assert once * SENT[codec] < result.summary["bytes"]["up"]["activations"] < every * SENT[codec]
    assert adapter_of(result.output_dir) == adapter_of(tmp_path / "run")


@pytest.mark.parametrize("changes", rest_slow([
    {"codec": "int8", "server_adapter": "shared", "labels": "client", "tail_blocks": 1},
    {"codec": "none"},
    {"codec": "int4"},
], 1), ids=["labels at home, shared", "none", "int4"])  # fmt: skip
def test_over_connections_as_in_one_process(changes: Settings, setting: Settings, tmp_path: Path) -> None:
    here, there = result_of(setting | changes, tmp_path / "local"), together(setting | changes, tmp_path)
    assert adapter_of(here.output_dir) == adapter_of(there)
    assert json.loads((there / "summary.json").read_text())["bytes"] == here.summary["bytes"]


@pytest.mark.parametrize("codec", rest_slow(["int4", "none"], 1))
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(
    codec: str, setting: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server kept is lost with it, and sent again."""
    whole = result_of(setting, tmp_path / "whole", codec=codec)
    job = Job(**setting | {"codec": codec}, output_dir=str(tmp_path / "run"))
    monkeypatch.setenv(VARIABLE, "run.recorded:3:interrupt")
    with pytest.raises(KeyboardInterrupt):
        run(job, console=QUIET)
    monkeypatch.delenv(VARIABLE)
    resumed = run(job, console=QUIET, resume=True)
    assert adapter_of(resumed.output_dir) == adapter_of(whole.output_dir)
    sent = [result.summary["bytes"]["up"]["activations"] for result in (resumed, whole)]
    assert sent[0] > sent[1]


def test_the_adapter_is_a_stock_one_of_those_blocks(setting: Settings, tmp_path: Path) -> None:
    result = result_of(setting, tmp_path / "run", adapter_name_or_path=None)
    base = AutoModelForCausalLM.from_pretrained(setting["model_name_or_path"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(result.adapter_path))
    held = {name.replace(".default", "") for name, _ in model.named_parameters() if ".lora_" in name}
    assert held == load_file(result.adapter_path / "adapter_model.safetensors").keys()
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in held} == set(range(FROZEN, BLOCKS))


def other_length(message: Activations) -> Activations:
    return replace(message, lengths=(message.lengths[0] + 1, *message.lengths[1:]))


GARBAGE: dict[str, Callable[[Activations], Activations]] = {
    "no samples": lambda m: replace(m, samples=()),
    "a sample too few": lambda m: replace(m, samples=m.samples[1:]),
    "another length than before": other_length,
    "rows for what is known": lambda m: replace(m, hidden=torch.zeros(sum(m.lengths) + 1, WIDTH)),
    "labels of all": lambda m: replace(m, labels=torch.zeros(sum(m.lengths) + 1, dtype=torch.int32)),
    "a sample that it never sent": lambda m: replace(m, samples=(10**6, *m.samples[1:])),
    "NaN": lambda m: replace(m, hidden=torch.full_like(m.hidden, float("nan"))),
}


@pytest.mark.parametrize("what", rest_slow(GARBAGE, ["another length than before"]))
def test_who_spoils_what_is_kept_takes_part_no_more(
    what: str, setting: Settings, without: bytes, tmp_path: Path
) -> None:
    """In a later step, when much is kept already."""
    said: list[str] = []

    def tamper(message: Any) -> list[Any]:
        if isinstance(message, Activations) and message.train and (message.round, message.step) >= late:
            return [packed(GARBAGE[what](message))]
        return [message]

    late = (1, 1) if what == "NaN" else (2, 2)
    settings = setting | {"codec": "none"}
    folder = together(settings, tmp_path, {"carl": tamper}, said)
    assert said and any(word in said[0] for word in ("samples", "lengths", "hidden", "loss")), said
    if what == "NaN":
        assert adapter_of(folder) == without


@pytest.fixture(scope="module")
def without(setting: Settings, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of the run that carl never was in."""
    files = {name: path for name, path in setting["data_files"].items() if name != "carl"}
    changes = {"data_files": files, "cuts": [1, 2], "network": {"clients": NAMES[:2]}}
    return adapter_of(result_of(setting, tmp_path_factory.mktemp("honest") / "run", **changes).output_dir)


def test_what_cannot_be_is_told(setting: Settings, tmp_path: Path) -> None:
    job = Job(**setting, output_dir=str(tmp_path / "run"))
    from splitft.job import dump_job

    dump_job(job, tmp_path / "job.yaml")
    with pytest.raises(JobError, match="a block is trained by all or by nobody"):
        load_job(tmp_path / "job.yaml", ["cut_policy.method=makespan"])
    whole = make_setting(tmp_path, "llama", num_hidden_layers=BLOCKS, hidden_size=WIDTH)
    with pytest.raises(ModelError, match="set train_front: true"):
        result_of(setting, tmp_path / "other", adapter_name_or_path=whole["adapter_name_or_path"])
