"""I1 and I2: a split run is the unsplit one, bit by bit; what the cut is cannot be seen in the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_same_bits, assert_same_losses, final_adapter, trained
from safetensors.torch import load_file

from cases import rest_slow
from reference import federated_lora, make_setting
from splitft import Job
from tiny import MODEL_TYPES


@pytest.mark.parametrize("model_type", rest_slow(MODEL_TYPES, ["gpt2"]))
def test_one_client_at_every_cut_trains_the_unsplit_peft_model(model_type: str, tmp_path: Path) -> None:
    settings = make_setting(tmp_path, model_type) | {"clients": 1, "rounds": 20, "local_steps": 1}
    adapter, losses = federated_lora(Job(**settings))
    start = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(not torch.equal(adapter[name], start[name]) for name in start), "nothing was trained"
    for cut in (1, 2, 3):
        _, result = trained(settings, tmp_path / f"cut{cut}", cuts=cut)
        assert_same_losses(result, losses)
        assert_same_bits(final_adapter(result), adapter)


@pytest.mark.parametrize("changes", rest_slow([
    {"gradient_accumulation_steps": 3},
    {"gradient_checkpointing": True},
    {"server_adapter": "shared"},
    {"max_grad_norm": 0.0},
    {"lr_scheduler_type": "cosine"},
    {"labels": "client", "tail_blocks": 1},
    {"labels": "client", "tail_blocks": 2, "gradient_accumulation_steps": 2, "gradient_checkpointing": True},
], 2), ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()))  # fmt: skip
def test_one_client_trains_the_unsplit_model_in_every_mode(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = make_setting(tmp_path, "llama") | {"clients": 1, "rounds": 4, "local_steps": 5, "cuts": 1}
    never_clip = {"max_grad_norm": 1e9} if changes.get("max_grad_norm") == 0 else {}
    adapter, losses = federated_lora(Job(**settings | changes | never_clip))
    _, result = trained(settings, tmp_path / "run", **changes)
    assert_same_losses(result, losses)
    assert_same_bits(final_adapter(result), adapter)


@pytest.mark.parametrize("model_type", rest_slow(["llama", "gpt2"], 1))
def test_any_cuts_give_federated_lora_on_whole_models(model_type: str, tmp_path: Path) -> None:
    settings = make_setting(tmp_path, model_type, num_hidden_layers=6) | {
        "clients": 4,
        "rounds": 3,
        "local_steps": 3,
        "partition": {"method": "length_dirichlet", "alpha": 0.5, "min_rows": 4},
    }
    adapter, losses = federated_lora(Job(**settings))
    for number, cuts in enumerate(([2, 2, 2, 2], [1, 2, 3, 4], [5, 1, 4, 1])):
        _, result = trained(settings, tmp_path / f"run{number}", cuts=cuts)
        assert_same_losses(result, losses)
        assert_same_bits(final_adapter(result), adapter)


def test_labels_at_home_change_nothing(tmp_path: Path) -> None:
    settings = make_setting(tmp_path, "qwen3", num_hidden_layers=6) | {
        "clients": 3, "rounds": 3, "local_steps": 2, "cuts": [1, 2, 3], "eval_every": 1, "lora_r_cut": 2,
    }  # fmt: skip
    _, at_server = trained(settings, tmp_path / "server")
    _, at_home = trained(settings, tmp_path / "client", labels="client", tail_blocks=2)
    assert_same_bits(final_adapter(at_home), final_adapter(at_server))
    for home, server in zip(at_home.history, at_server.history, strict=True):
        for name in home.clients:
            assert home.clients[name].loss == server.clients[name].loss
        assert home.perplexity == pytest.approx(server.perplexity, rel=1e-12)
        assert home.accuracy == server.accuracy
    assert at_home.summary["bytes"]["up"].keys() & {"labels"} == set()
    assert "labels" in at_server.summary["bytes"]["up"]
