"""Promises of adapter slots: which layers of a model get them."""

from __future__ import annotations

import pytest

from adapters import adapted, tiny_bert
from splitft import ModelError
from splitft.model.config import count_blocks
from splitft.model.slots import AdapterSlots, resolve_targets
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
