"""Targets that LoRA cannot adapt are left out of the defaults, and refused where a job states them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cases import rest_slow
from splitft.model.slots import lora_config, resolve_targets, uses_fan_in_fan_out
from splitft.proof.every_type import default_config
from splitft.proof.split import check_split
from splitft.proof.targets import Configure, problems_in, problems_of_targets
from splitft.weights.shrink import shrink_config
from tiny import MODEL_TYPES, tiny_model

# Types whose default targets peft cannot take, or that would train nothing: {type: names left out}.
LEFT_OUT = {
    "deepseek_v3": {"gate_proj", "up_proj", "down_proj"},
    "qwen3_next": {"gate_proj", "up_proj", "down_proj"},
    "glm4_moe": {"gate_proj", "up_proj", "down_proj"},
    "llama4_text": {"router"},
    "phimoe": {"router"},
    "mamba": {"out_proj", "dt_proj"},
    "falcon_h1": {"out_proj"},
}


def configure(excluded: list[str]) -> Configure:
    def config(model: Any, names: Sequence[str]) -> Any:
        fan_in = uses_fan_in_fan_out(model)
        return lora_config(list(names), excluded, r=2, alpha=4, dropout=0.0, fan_in_fan_out=fan_in)

    return config


@pytest.mark.parametrize("model_type", rest_slow(LEFT_OUT, ["deepseek_v3", "phimoe", "falcon_h1"]))
def test_names_that_cannot_be_adapted_are_left_out_with_a_reason(model_type: str) -> None:
    report = check_split(default_config(model_type), [1])
    assert report.ok and set(report.left_out) == LEFT_OUT[model_type]
    assert report.targets and not set(report.targets) & set(report.left_out)
    assert all(len(problem) > 20 for problem in report.left_out.values())


def test_fused_experts_are_called_by_their_name() -> None:
    report = check_split(default_config("deepseek_v3"), [1])
    assert "fused experts" in report.left_out["gate_proj"]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_linear_layers_of_plain_decoders_can_all_be_adapted(model_type: str) -> None:
    model: Any = tiny_model(model_type)
    names, excluded = resolve_targets(model, "all-linear")
    assert problems_in(model.config, names, configure(excluded)) == {}


def test_a_planted_router_that_answers_a_tuple_is_found() -> None:
    small = shrink_config(default_config("llama4_text"))
    assert set(problems_in(small, ["router", "q_proj"], configure([]))) == {"router"}


def test_a_model_that_keeps_tensors_in_itself_is_tried_too() -> None:
    """RecurrentGemma's blocks keep their last states: no copy of a model that has run can be made."""
    report = check_split(default_config("recurrent_gemma"), [1])
    assert report.ok and report.targets, report.reason


def test_a_model_without_a_small_copy_is_left_to_the_proof_of_the_model() -> None:
    config = default_config("blt")
    assert problems_of_targets(config, ["q_proj"], configure([])) == {}
