"""Adapters on fused experts: the invariants hold for them as for those of linear layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from plans import assert_is_the_run, planned
from runs import (
    assert_same_bits,
    assert_same_losses,
    base_of,
    final_adapter,
    perplexity,
    trained,
    tuned,
)
from test_types_train import settings_of
from transformers import AutoModelForCausalLM

from cases import rest_slow
from commands import splitft
from network_threads import together
from reference import federated_lora, write_rows
from run_files import adapter_of
from splitft import Job
from splitft.errors import JobError, ModelError

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def setting(folder: Path, model_type: str = "qwen3_moe", **changes: Any) -> dict[str, Any]:
    """A tiny model of a type with fused experts, and an adapter on them, too, that stock peft made."""
    attention = ["q_proj", "o_proj"] if model_type == "qwen3_moe" else ["o_proj"]
    settings = settings_of(model_type, folder) | {
        "lora_target_modules": attention, "lora_target_parameters": EXPERTS, "lora_alpha": 8,
        "padding_free": False, "adapter_name_or_path": str(folder / "adapter"),
    } | changes  # fmt: skip
    base = base_of(Job(**settings | {"adapter_name_or_path": None}))
    torch.manual_seed(3)
    lora = LoraConfig(
        r=4, lora_alpha=8, target_modules=attention, target_parameters=EXPERTS,
        init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    get_peft_model(base, lora).save_pretrained(str(folder / "adapter"))
    return settings


@pytest.mark.parametrize("model_type", ["qwen3_moe", "deepseek_v3"])
def test_one_client_at_every_cut_trains_the_unsplit_peft_model(model_type: str, tmp_path: Path) -> None:
    settings = setting(tmp_path, model_type, clients=1, rounds=5, local_steps=1, eval_every=100, cuts=1)
    settings["per_device_train_batch_size"] = 1  # padding joins the experts' products
    adapter, losses = federated_lora(Job(**settings))
    assert any(".experts.base_layer." in name for name in adapter)
    for cut in (1, 2, 3):
        _, result = trained(settings, tmp_path / f"cut{cut}", cuts=cut)
        assert_same_losses(result, losses)
        assert_same_bits(final_adapter(result), adapter)


def test_any_cuts_and_moves_of_them_give_federated_lora(tmp_path: Path) -> None:
    settings = setting(tmp_path, rounds=3, per_device_train_batch_size=1)
    _, whole = trained(settings, tmp_path / "whole", method="fed_lora")
    moves = {"method": "schedule", "schedule": {"1": [3, 1], "2": [2, 3]}}
    for number, changes in enumerate(({"cuts": [1, 3]}, {"cuts": 2, "cut_policy": moves})):
        _, result = trained(settings, tmp_path / f"run{number}", **changes)
        assert_same_bits(final_adapter(result), final_adapter(whole))


@pytest.mark.parametrize("changes", rest_slow([
    {}, {"lora_r_cut": 2}, {"lora_r_cut": 1, "aggregation": "exact"}, {"aggregation": "freeze_a"},
    {"server_adapter": "shared"}, {"labels": "client"},
], 2), ids=str)  # fmt: skip
def test_exported_adapters_load_and_merge(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = {"method": "schedule", "schedule": {"1": [2, 1]}}
    settings = setting(tmp_path, rounds=2, cut_policy=moves)
    job, result = trained(settings, tmp_path / "run", **changes)
    last = result.history[-1].perplexity
    assert last != result.history[0].perplexity
    assert perplexity(tuned(job, result), job) == pytest.approx(last, rel=1e-4)
    merged = tmp_path / "merged"
    assert not splitft("export", str(tmp_path / "run"), str(merged), "--merge", monkeypatch=monkeypatch)
    assert perplexity(AutoModelForCausalLM.from_pretrained(merged), job) == pytest.approx(last, rel=1e-4)


def test_a_network_and_a_plan_are_the_run(tmp_path: Path) -> None:
    names = ["alice", "bob"]
    files = {name: str(write_rows(tmp_path / f"{name}.txt", seed=i)) for i, name in enumerate(names)}
    settings = setting(
        tmp_path, data_files=files, partition={"method": "files"}, lora_r_cut=2, rounds=2, labels="server",
        network={"clients": names}, privacy="server_reads",
        cut_policy={"method": "schedule", "schedule": {"1": [2, 1]}},
    )  # fmt: skip
    _, result = trained(settings, tmp_path / "here")
    there = together(settings, tmp_path)
    assert adapter_of(there) == adapter_of(tmp_path / "here")
    assert_is_the_run(planned(settings), result)


def test_several_clients_are_computed_one_at_a_time(tmp_path: Path) -> None:
    settings = setting(tmp_path, rounds=1)
    _, plain = trained(settings, tmp_path / "plain")
    _, asked = trained(settings, tmp_path / "asked", server_batch_tokens=4000)
    assert_same_bits(final_adapter(asked), final_adapter(plain))


@pytest.mark.parametrize(("changes", "told"), [
    ({"lora_target_parameters": ["mlp.experts.up"]}, "this model has mlp.experts.gate_up_proj, mlp"),
    ({"lora_dropout": 0.1}, "cannot adapt mlp.experts.* does not work with lora_dropout"),
    ({"train_front": False}, "train_front: no does not go with lora_target_parameters"),
])  # fmt: skip
def test_wishes_that_peft_has_no_adapter_for_are_refused(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises((ModelError, JobError), match=told):
        trained(setting(tmp_path) | changes, tmp_path / "run")
