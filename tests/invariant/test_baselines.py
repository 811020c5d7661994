"""The baselines in the same harness: each is what it says it is, and fed_lora is the split run bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_bits, assert_same_losses, final_adapter, trained
from safetensors.torch import load_file
from transformers import AutoTokenizer

from cases import rest_slow
from reference import UnsplitClient, federated_lora, make_setting, mean_loss
from splitft import Job
from splitft.data import ClientData, join, prepare


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_setting(tmp_path_factory.mktemp("baselines"), "llama") | {
        "clients": 3, "rounds": 3, "local_steps": 2, "cuts": [1, 2, 3], "max_eval_samples": 12,
        "eval_every": 1, "gradient_accumulation_steps": 2,
        "partition": {"method": "length_dirichlet", "alpha": 0.5, "min_rows": 4},
        "devices": "laptop",
    }  # fmt: skip


def test_fed_lora_is_the_split_run_without_a_split(setting: dict[str, Any], tmp_path: Path) -> None:
    adapter, losses = federated_lora(Job(**setting))
    split_job, split = trained(setting, tmp_path / "split")
    _, whole = trained(setting, tmp_path / "whole", method="fed_lora")
    assert_same_bits(final_adapter(whole), adapter)
    assert_same_losses(whole, losses)
    for one, other in zip(split.history, whole.history, strict=True):
        assert one.perplexity == pytest.approx(other.perplexity, rel=1e-12)
        assert (one.accuracy, one.paper_accuracy) == (other.accuracy, other.paper_accuracy)
    kinds = {kind for way in whole.summary["bytes"].values() for kind in way}
    assert kinds == {"adapter", "control", "evaluation"}  # no activation crosses
    rounds = split_job.rounds
    adapter_bytes = sum(t.numel() * 4 for t in adapter.values())
    assert whole.summary["bytes"]["up"]["adapter"] == rounds * 3 * adapter_bytes


def test_local_only_is_each_client_alone(setting: dict[str, Any], tmp_path: Path) -> None:
    job, result = trained(setting, tmp_path / "run", method="local_only")
    tokenizer = AutoTokenizer.from_pretrained(job.model_name_or_path)
    for data in prepare(job, tokenizer).clients:
        alone = UnsplitClient(job, data)
        for record in result.history[1:]:
            alone.losses = []
            for _ in range(job.local_steps):
                alone.local_step()
            assert record.clients[data.name].loss == pytest.approx(mean_loss(alone.losses), rel=1e-6)
        saved = load_file(result.adapter_path / data.name / "adapter_model.safetensors")
        assert_same_bits(saved, alone.adapter())
    assert (result.summary["bytes_up"], result.summary["bytes_down"]) == (0, 0)
    assert not (tmp_path / "run" / "adapter").exists()


def test_centralized_is_one_model_on_the_pooled_rows(setting: dict[str, Any], tmp_path: Path) -> None:
    job, result = trained(setting, tmp_path / "run", method="centralized")
    tokenizer = AutoTokenizer.from_pretrained(job.model_name_or_path)
    clients = prepare(job, tokenizer).clients
    rows = join([data.train for data in clients])
    assert len(rows) == sum(len(data.train) for data in clients)
    pooled = UnsplitClient(job, ClientData("all data", rows, rows.select([])))
    for record in result.history[1:]:
        pooled.losses = []
        for _ in range(job.local_steps):
            rate = pooled.optimizer.param_groups[0]["lr"]
            for _ in clients:  # a step for every client, at the learning rate of the local step
                pooled.optimizer.param_groups[0]["lr"] = rate
                pooled.schedule.step = lambda: None
                pooled.local_step()
            del pooled.schedule.step
            pooled.schedule.step()
        assert record.loss == pytest.approx(mean_loss(pooled.losses), rel=1e-6)
    assert_same_bits(final_adapter(result), pooled.adapter())
    assert result.history[-1].perplexity != result.history[0].perplexity
    assert set(result.history[-1].clients) == {data.name for data in clients}


def test_same_split_is_one_cut_for_all(setting: dict[str, Any], tmp_path: Path) -> None:
    policy = {"cut_policy": {"method": "makespan"}}  # which a baseline does not follow
    _, result = trained(setting, tmp_path / "run", method="same_split", **policy)
    assert all(set((record.cuts or {}).values()) == {2} for record in result.history)
    assert not (tmp_path / "run" / "decisions.jsonl").exists()


@pytest.mark.parametrize(
    "method", rest_slow(["splitft", "fed_lora", "centralized", "same_split", "local_only"], 1)
)
def test_all_methods_see_the_same_start_and_as_much_text(
    method: str, setting: dict[str, Any], tmp_path: Path
) -> None:
    _, plain = trained(setting, tmp_path / "plain")
    _, result = trained(setting, tmp_path / "run", method=method)
    first = result.history[0]
    assert first.perplexity == pytest.approx(plain.history[0].perplexity, rel=1e-6)
    assert first.accuracy == plain.history[0].accuracy
    assert [c.eval_tokens for c in first.clients.values()] == [
        c.eval_tokens for c in plain.history[0].clients.values()
    ]
    assert result.summary["method"] == method
    assert result.summary["virtual_seconds"] > 0
    assert result.summary["train_tokens"] > 0
    if method in ("fed_lora", "local_only", "centralized"):
        assert all(record.cuts is None for record in result.history)
