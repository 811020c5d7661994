"""Promises of adapter slots: which layers of a model get them."""

from __future__ import annotations

from typing import Any

import pytest

from adapters import adapted, tiny_bert
from splitft import Job, ModelError
from splitft.lora.blocks import module_of
from splitft.model.config import count_blocks
from splitft.model.slots import AdapterSlots, resolve_targets
from splitft.running.model import choose_targets, inject_adapters
from tiny import MODEL_TYPES, tiny_model

DEFAULTS = {name: {"c_attn"} if name == "gpt2" else {"q_proj", "v_proj"} for name in MODEL_TYPES}
ALL_LINEAR = {
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "gpt_neo": {"q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"},
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
}


ALL_LINEAR |= {"qwen3": ALL_LINEAR["llama"], "gemma3_text": ALL_LINEAR["llama"]}


def modules_of(slots: AdapterSlots) -> set[str]:
    return {spec.name.partition(".lora_")[0].rpartition(".")[2] for s in slots.layout.values() for spec in s}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_targets_are_pefts_own_or_all_linear_layers_of_the_blocks(model_type: str) -> None:
    for requested, wanted in ((None, DEFAULTS), ("all-linear", ALL_LINEAR)):
        model = tiny_model(model_type)
        before = {name for name, _ in model.named_parameters()}
        slots, _ = adapted(model, requested)
        assert modules_of(slots) == wanted[model_type]
        assert list(slots.layout) == list(range(count_blocks(model.config)))
        assert not any(parameter.requires_grad for parameter in model.parameters())
        added = [name for name, _ in model.named_parameters() if ".lora_" in name]
        assert len(added) == sum(map(len, slots.layout.values()))
        assert all(name.startswith(f"{slots.path}.") for name in added)
        assert len(before) == len(list(model.parameters())) - len(added)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_wrong_target_names_are_told_with_the_right_ones(model_type: str) -> None:
    model = tiny_model(model_type)
    for requested in (["nothing"], ["nothing", sorted(ALL_LINEAR[model_type])[0]], "proj", "lm_head", "mlp"):
        with pytest.raises(ModelError) as error:
            resolve_targets(model, requested)
        assert all(name in str(error.value) for name in ALL_LINEAR[model_type])


def test_a_longer_name_chooses_one_of_several_layers() -> None:
    slots, _ = adapted(tiny_model("gpt2"), ["attn.c_proj"])
    names = [spec.name for spec in slots.layout[0]]
    assert names == ["attn.c_proj.lora_A.weight", "attn.c_proj.lora_B.weight"]


def test_layers_outside_blocks_are_left_alone_whatever_they_are_called() -> None:
    """BERT's blocks and its head both have layers called `dense`."""
    targets, excluded = resolve_targets(tiny_bert(), ["dense"])
    assert (targets, excluded) == (["dense"], ["cls.predictions.transform.dense"])
    model = tiny_bert()
    slots, _ = adapted(model, ["dense"])
    names = [name for name, _ in model.named_parameters() if ".lora_" in name]
    assert names
    assert all(name.startswith("bert.encoder.layer.") for name in names)
    assert sum(map(len, slots.layout.values())) == len(names)


def full_names(**settings: Any) -> list[str]:
    """The layers with LoRA of a job with these settings on a tiny llama."""
    model = tiny_model("llama")
    job = Job(model_name_or_path="m", data_files="d", lora_r=2, **settings)
    targets, _ = choose_targets(job, model)
    slots = inject_adapters(job, model, targets)
    return [f"{b}.{module_of(spec.name)}" for b, specs in slots.layout.items() for spec in specs[::2]]


@pytest.mark.parametrize(("settings", "wanted"), [
    ({"lora_target_modules": r".*\.[12]\..*(q|up)_proj"},
     ["1.self_attn.q_proj", "1.mlp.up_proj", "2.self_attn.q_proj", "2.mlp.up_proj"]),
    ({"lora_target_modules": "model.layers.3.mlp.up_proj"}, ["3.mlp.up_proj"]),
    ({"lora_target_modules": ["layers.0.self_attn.k_proj", "o_proj"], "layers_to_transform": [0, 2]},
     ["0.self_attn.k_proj", "0.self_attn.o_proj", "2.self_attn.o_proj"]),
    ({"layers_to_transform": 1}, ["1.self_attn.q_proj", "1.self_attn.v_proj"]),
    ({"lora_target_modules": "all-linear", "layers_to_transform": [3],
      "exclude_modules": ["mlp.up_proj", "o_proj", "gate_proj", "down_proj"]},
     ["3.self_attn.q_proj", "3.self_attn.k_proj", "3.self_attn.v_proj"]),
    ({"lora_target_modules": ["q_proj"], "exclude_modules": r".*\.[0-2]\..*"}, ["3.self_attn.q_proj"]),
    ({"lora_target_modules": r".*\.q_proj", "train_front": False, "cuts": 3}, ["3.self_attn.q_proj"]),
    ({"layers_to_transform": [1, 3], "train_front": False, "cuts": 2},
     ["3.self_attn.q_proj", "3.self_attn.v_proj"]),
], ids=str)  # fmt: skip
def test_layers_are_chosen_by_pattern_block_and_exclusion(settings: Any, wanted: list[str]) -> None:
    assert full_names(**settings) == wanted


@pytest.mark.parametrize(("settings", "told"), [
    ({"lora_target_modules": r".*\.lm_head"}, "matches .* such as model.layers.0.self_attn.q_proj"),
    ({"layers_to_transform": [1, 4]}, "blocks are 0 to 3; it has no block 4"),
    ({"exclude_modules": ".*"}, "leave no layer with an adapter"),
    ({"layers_to_transform": 0, "train_front": False}, "train_front leave no layer"),
], ids=str)  # fmt: skip
def test_a_choice_of_nothing_is_refused(settings: Any, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        full_names(**settings)
