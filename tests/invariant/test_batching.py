"""Several clients, with different cuts, in one pass of the server: each gets what it gets alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from runs import assert_same_bits, final_adapter
from safetensors.torch import load_file
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM
from wire_record import record_messages

from cases import rest_slow
from network_threads import QUIET, Settings, together
from reference import make_setting, write_rows
from splitft import Job, run
from splitft.model.slots import inject, lora_config, resolve_targets, uses_fan_in_fan_out
from splitft.model.split_model import SplitModel
from splitft.proof.batched import prove_batching
from splitft.running.batching import most_tokens
from splitft.running.parties import make_parties
from splitft.running.prepare import assemble
from splitft.server.batches import _MOST_PADDING, plan_batches
from splitft.server.step import AtCut, TrunkStep, trunk_step
from splitft.wire.messages import Gradients
from tiny import MODEL_TYPES, tiny_model

FEW = {"rounds": 1, "local_steps": 1, "eval_every": 1, "max_eval_samples": 3, "warmup_steps": 0}
CLIENTS = {"clients": 4, "cuts": [3, 1, 2, 1], "partition": {"method": "iid"}}
MODES: dict[str, Settings] = {
    "per_client": {},
    "shared": {"server_adapter": "shared"},
    "lower rank at the cut": {"lora_r_cut": 2},
    "micro-batches": {"gradient_accumulation_steps": 2},
    "checkpointing": {"gradient_checkpointing": True},
    "front frozen": {"train_front": False, "adapter_name_or_path": None},
    "int8": {"codec": "int8"},
    "bfloat16": {"bf16": True},
}


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Who was computed together; clients with rows of unequal length, too."""
    seen: list[list[str]] = []

    def noting(model: SplitModel, parts: Sequence[AtCut], **options: bool) -> TrunkStep:
        if len(parts) > 1:
            seen.append(sorted(part.place.client for part in parts))
        return trunk_step(model, parts, **options)

    monkeypatch.setattr("splitft.server.answers.trunk_step", noting)
    monkeypatch.setattr("splitft.server.batches._MOST_PADDING", 100)
    return seen


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Settings]:
    return {
        kind: make_setting(tmp_path_factory.mktemp(kind), kind, num_hidden_layers=5) | CLIENTS | FEW
        for kind in MODEL_TYPES
    }


def gradients(monkeypatch: pytest.MonkeyPatch, settings: Settings, folder: Path) -> dict[Any, Gradients]:
    """Run a job and return what came down, {(client, micro-batch): gradients}."""
    with monkeypatch.context() as patch:
        wire = record_messages(patch)
        run(Job(**settings, output_dir=str(folder)), console=QUIET)
        return {(c, m.micro_step): m for _, c, m, _ in wire.sent if isinstance(m, Gradients)}


def assert_close(one: Tensor | None, other: Tensor | None, most: float) -> None:
    assert one is not None and other is not None and one.shape == other.shape
    assert float((one.float() - other.float()).abs().max()) <= most * float(other.float().abs().max())


def assert_equal_steps(one: dict[Any, Gradients], other: dict[Any, Gradients], most: float) -> None:
    assert one.keys() == other.keys() and len(one) >= 4
    for key, message in one.items():
        assert message.loss == pytest.approx(other[key].loss, rel=most)
        if message.gradient.numel():
            assert_close(message.gradient, other[key].gradient, most)
        if other[key].grad_norms is not None:  # of each of the trunk's adapters
            assert_close(message.grad_norms, other[key].grad_norms, most)


@pytest.mark.parametrize("kind", rest_slow(MODEL_TYPES, ["gpt2", "gemma3_text"]))
def test_each_client_gets_the_gradients_that_it_gets_alone(
    kind: str, settings: dict[str, Settings], tmp_path: Path, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = gradients(monkeypatch, settings[kind], tmp_path / "alone")
    at_once = gradients(monkeypatch, settings[kind] | {"server_batch_tokens": 9999}, tmp_path / "at_once")
    assert_equal_steps(at_once, alone, 3e-6)
    assert batches == [["client-0", "client-1", "client-2", "client-3"]]


@pytest.mark.parametrize(
    "mode", rest_slow(MODES, ["shared", "lower rank at the cut", "front frozen", "int8"])
)
def test_in_every_mode(
    mode: str, settings: dict[str, Settings], tmp_path: Path, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = settings["llama"] | MODES[mode]
    alone = gradients(monkeypatch, job, tmp_path / "alone")
    at_once = gradients(monkeypatch, job | {"server_batch_tokens": 9999}, tmp_path / "at_once")
    # Codecs round, and so does bfloat16: a last bit may make a step of theirs.
    assert_equal_steps(at_once, alone, {"int8": 2e-2, "bfloat16": 5e-2}.get(mode, 3e-6))


def test_the_limit_is_kept(settings: dict[str, Settings], tmp_path: Path, batches: list[list[str]]) -> None:
    for most in (1, 100):
        job = settings["llama"] | {"server_batch_tokens": most, "per_device_train_batch_size": 2}
        run(Job(**job, output_dir=str(tmp_path / str(most))), console=QUIET)
    assert batches and all(len(batch) == 2 for batch in batches)  # two rows of at most 24 tokens each


def test_dropout_is_the_same_again(
    settings: dict[str, Settings], tmp_path: Path, batches: list[list[str]]
) -> None:
    job = settings["llama"] | {"server_batch_tokens": 9999, "lora_dropout": 0.3, "local_steps": 2}
    results = [run(Job(**job, output_dir=str(tmp_path / name)), console=QUIET) for name in ("a", "b")]
    assert_same_bits(final_adapter(results[0]), final_adapter(results[1]))
    assert len(batches) == 4


def test_whole_runs_end_alike_in_one_process_and_over_connections(
    tmp_path: Path, batches: list[list[str]]
) -> None:
    names = ["anna", "bert", "carl"]
    files = {name: str(write_rows(tmp_path / f"{name}.txt", rows=30, seed=i)) for i, name in enumerate(names)}
    job = make_setting(tmp_path, "llama", num_hidden_layers=4) | FEW | {
        "data_files": files, "cuts": [1, 2, 2], "labels": "server", "max_eval_samples": None, "rounds": 2,
        "partition": {"method": "files"}, "network": {"clients": names}, "local_steps": 3,
    }  # fmt: skip
    alone = run(Job(**job, output_dir=str(tmp_path / "alone")), console=QUIET)
    assert not batches
    at_once = run(Job(**job, server_batch_tokens=9999, output_dir=str(tmp_path / "at_once")), console=QUIET)
    assert len(batches) == 6
    over = together(job | {"server_batch_tokens": 9999}, tmp_path / "over")
    assert len(batches) > 6
    adapter = load_file(over / "adapter" / "adapter_model.safetensors")
    for name, tensor in final_adapter(alone).items():
        assert torch.allclose(final_adapter(at_once)[name], tensor, atol=1e-4)
        assert torch.allclose(adapter[name], tensor, atol=1e-4)


def split_model(model: Any) -> SplitModel:
    targets, excluded = resolve_targets(model, None)
    config = lora_config(
        targets, excluded, r=4, alpha=8, dropout=0.0, fan_in_fan_out=uses_fan_in_fan_out(model)
    )
    return SplitModel(model, inject(model, config))


def test_a_model_that_mixes_rows_is_computed_one_by_one() -> None:
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=99, hidden_size=32, n_layer=4, n_head=4)
    problem = prove_batching(split_model(BloomForCausalLM(config)), [1, 2, 3])
    assert problem
    assert not prove_batching(split_model(tiny_model("llama")), [1, 2, 3])


def test_what_is_said(settings: dict[str, Settings], tmp_path: Path) -> None:
    def said(**changes: Any) -> str:
        told = io.StringIO()
        job = (
            settings["llama"]
            | {"output_dir": str(tmp_path / f"run{len(list(tmp_path.iterdir()))}")}
            | changes
        )
        run(Job(**job), console=Console(file=told, width=200))
        return told.getvalue()

    assert "the server computes" not in said()
    assert "clients together, up to 9999 tokens: proven" in said(server_batch_tokens=9999)
    home = {"labels": "client", "tail_blocks": 1}
    assert "one client at a time: with labels at home" in said(server_batch_tokens=9999, **home)
    assert "32 tokens" in said(server_batch_tokens="auto")


def test_a_resumed_run_keeps_what_was_measured(settings: dict[str, Settings]) -> None:
    start = assemble(Job(**settings["llama"], server_batch_tokens="auto"), QUIET)
    state = make_parties(start, batch_tokens=77).state()
    resumed = make_parties(start, batch_tokens=99)
    resumed.load_state(state)
    assert resumed.server.worker.state()["batch_tokens"] == 77


def test_calibration_ends() -> None:
    tokens, gain = most_tokens(split_model(tiny_model("llama")), [1, 2])
    assert gain > 0 and (tokens == 0 or tokens >= 64)


@given(
    st.dictionaries(st.text("abc", min_size=1), st.lists(st.integers(1, 50), min_size=1, max_size=5)),
    st.integers(1, 400),
)
def test_batches_hold_every_client_once_and_keep_the_limit(lengths: dict[str, list[int]], most: int) -> None:
    batches = plan_batches(lengths, most)
    assert sorted(c for batch in batches for c in batch) == sorted(lengths)
    for batch in batches:
        rows, width = sum(len(lengths[c]) for c in batch), max(max(lengths[c]) for c in batch)
        assert len(batch) == 1 or rows * width <= most
        alone = sum(len(lengths[c]) * max(lengths[c]) for c in batch)
        assert len(batch) == 1 or rows * width <= _MOST_PADDING * alone
