"""Promises of adapters: where they sit, how they start, how they change rank, how they travel."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import BertConfig, BertLMHeadModel

from splitft import Job, ModelError
from splitft.lora.blocks import (
    BlockAdapter,
    Layout,
    TensorSpec,
    flatten,
    initial_adapter,
    rank_of,
    resize,
    unflatten,
)
from splitft.lora.ranks import effective_ranks
from splitft.model.slots import AdapterSlots, inject, lora_config, resolve_targets, uses_fan_in_fan_out
from splitft.model.window import num_blocks
from splitft.running.export import load_adapter, save_adapter
from tiny import MODEL_TYPES, tiny_model

SPECS = (
    TensorSpec("attn.q.lora_A.weight", (8, 6)),
    TensorSpec("attn.q.lora_B.weight", (5, 8)),
    TensorSpec("conv.lora_A.weight", (8, 3, 2)),
    TensorSpec("conv.lora_B.weight", (4, 8, 1)),
)
RANKS = st.integers(1, 8)


def filled(rank: int, seed: int = 0) -> BlockAdapter:
    generator = torch.Generator().manual_seed(seed)
    return {spec.name: torch.randn(spec.at_rank(rank), generator=generator) for spec in SPECS}


def equal(first: BlockAdapter, second: BlockAdapter) -> bool:
    return list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)


@settings(deadline=None)
@given(rank=RANKS, seed=st.integers(0, 2**31))
def test_values_travel_and_come_back(rank: int, seed: int) -> None:
    block = filled(rank, seed)
    values = flatten(block)
    assert (values.ndim, values.dtype) == (1, torch.float32)
    assert equal(unflatten(values, SPECS), block)
    assert rank_of(unflatten(values, SPECS)) == rank


@settings(deadline=None)
@given(count=st.integers(0, 250))
def test_values_that_make_no_whole_rank_are_refused(count: int) -> None:
    unit = sum(math.prod(spec.at_rank(1)) for spec in SPECS)
    if count % unit == 0 and 1 <= count // unit <= 8:
        assert rank_of(unflatten(torch.zeros(count), SPECS)) == count // unit
        return
    with pytest.raises(ValueError, match="rank"):
        unflatten(torch.zeros(count), SPECS)


@pytest.mark.parametrize("shape", [(18, 1), (), (1, 18)])
def test_values_of_another_form_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        unflatten(torch.zeros(shape), SPECS)


@settings(deadline=None)
@given(have=RANKS, want=RANKS)
def test_ranks_change_by_cutting_or_by_zeros(have: int, want: int) -> None:
    block = filled(have)
    changed = resize(block, want)
    assert rank_of(changed) == want
    assert list(changed) == list(block)
    assert equal(resize(changed, min(have, want)), resize(block, min(have, want)))
    for spec in SPECS:
        added = changed[spec.name].narrow(spec.rank_axis, min(have, want), max(want - have, 0))
        assert not added.any()
    if want >= have:
        q = "attn.q.lora_{}.weight".format
        assert torch.allclose(changed[q("B")] @ changed[q("A")], block[q("B")] @ block[q("A")], atol=1e-5)
        assert equal(resize(changed, have), block)


@given(blocks=st.integers(2, 40), data=st.data(), r=st.integers(1, 64))
def test_the_blocks_on_both_sides_of_the_cut_have_the_lower_rank(
    blocks: int, data: st.DataObject, r: int
) -> None:
    cut, r_cut = data.draw(st.integers(1, blocks - 1)), data.draw(st.integers(1, r))
    ranks = effective_ranks(blocks, cut, r, r_cut)
    assert list(ranks) == list(range(blocks))
    assert all(ranks[block] == (r_cut if block in (cut - 1, cut) else r) for block in ranks)


@settings(deadline=None, max_examples=30)
@given(held=st.sets(st.integers(0, 6)), rank=RANKS, seed=st.integers(0, 2**63))
def test_a_new_adapter_does_not_depend_on_who_holds_which_block(held: set[int], rank: int, seed: int) -> None:
    whole: Layout = dict.fromkeys(range(7), SPECS)
    everything = initial_adapter(whole, rank, seed)
    part = initial_adapter({block: whole[block] for block in held}, rank, seed)
    assert part.keys() == held
    assert all(equal(part[block], everything[block]) for block in held)


def test_a_new_adapter_starts_as_pefts_does() -> None:
    specs = (TensorSpec("q.lora_A.weight", (64, 400)), TensorSpec("q.lora_B.weight", (300, 64)))
    adapter = initial_adapter({0: specs, 1: specs}, 64, 5)
    a, b = adapter[0]["q.lora_A.weight"], adapter[0]["q.lora_B.weight"]
    reference = nn.Linear(400, 64, bias=False).weight  # the default of nn.Linear is peft's default for A
    assert not b.any()
    assert a.abs().max() <= 1 / math.sqrt(400)
    assert float(a.std()) == pytest.approx(float(reference.detach().std()), rel=0.03)
    assert abs(float(a.mean())) < 1e-3
    assert not torch.equal(a, adapter[1]["q.lora_A.weight"])
    assert not torch.equal(a, initial_adapter({0: specs}, 64, 6)[0]["q.lora_A.weight"])


# Where adapters sit

DEFAULTS = {name: {"c_attn"} if name == "gpt2" else {"q_proj", "v_proj"} for name in MODEL_TYPES}
ALL_LINEAR = {
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "gpt_neo": {"q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"},
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
}
ALL_LINEAR |= {"qwen3": ALL_LINEAR["llama"], "gemma3_text": ALL_LINEAR["llama"]}


def adapted(model: nn.Module, requested: str | list[str] | None, r: int = 4) -> tuple[AdapterSlots, Any]:
    targets, excluded = resolve_targets(model, requested)
    fan = uses_fan_in_fan_out(model)
    config = lora_config(targets, excluded, r=r, alpha=8, dropout=0.0, fan_in_fan_out=fan)
    return inject(model, config), config


def modules_of(slots: AdapterSlots) -> set[str]:
    return {spec.name.partition(".lora_")[0].rpartition(".")[2] for s in slots.layout.values() for spec in s}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_targets_are_pefts_own_or_all_linear_layers_of_the_blocks(model_type: str) -> None:
    for requested, wanted in ((None, DEFAULTS), ("all-linear", ALL_LINEAR)):
        model = tiny_model(model_type)
        before = {name for name, _ in model.named_parameters()}
        slots, _ = adapted(model, requested)
        assert modules_of(slots) == wanted[model_type]
        assert list(slots.layout) == list(range(num_blocks(model)))
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


def tiny_bert() -> BertLMHeadModel:
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
        is_decoder=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return BertLMHeadModel(config).eval()


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


def job_for(folder: Path, **changes: Any) -> Job:
    settings_ = {"model_name_or_path": "m", "data_files": "d", "output_dir": str(folder)}
    return Job(**{**settings_, "lora_r": 4, "lora_alpha": 8, **changes})


def tiny_projected_opt() -> nn.Module:
    """An OPT with layers between embeddings and blocks, and between blocks and head."""
    return tiny_model("opt", word_embed_proj_dim=16, do_layer_norm_before=False)


MODELS = {
    "opt-projected": (tiny_projected_opt, "all-linear"),
    "bert": (tiny_bert, ["dense", "query"]),
    "gpt2": (lambda: tiny_model("gpt2"), "all-linear"),
    "gemma3": (lambda: tiny_model("gemma3_text"), None),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_loads_in_stock_peft_and_here(name: str, tmp_path: Path) -> None:
    """With ranks that differ between blocks, and layers outside blocks that could be mistaken for targets."""
    make, requested = MODELS[name]
    model = make()
    slots, _ = adapted(model, requested)
    ranks = {block: 1 + block for block in slots.layout}
    adapter = initial_adapter(slots.layout, 4, 0)
    generator = torch.Generator().manual_seed(1)
    for block in adapter:
        noisy = {n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in adapter[block].items()}
        adapter[block] = resize(noisy, ranks[block])
    slots.bind(adapter)
    ids = torch.arange(2, 22).reshape(2, 10)
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
    save_adapter(tmp_path / "adapter", adapter, slots, job_for(tmp_path), "card", "base")

    stock = PeftModel.from_pretrained(make(), str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        assert torch.equal(stock(input_ids=ids).logits, wanted)
        with stock.disable_adapter():
            assert not torch.allclose(stock(input_ids=ids).logits, wanted, atol=1e-3)

    fresh, _ = adapted(make(), requested)
    again = load_adapter(tmp_path / "adapter", fresh, job_for(tmp_path))
    assert all(equal(again[block], adapter[block]) for block in adapter)
    other_scale = load_adapter(tmp_path / "adapter", fresh, job_for(tmp_path, lora_alpha=16))
    for block, tensors in other_scale.items():
        for key, tensor in tensors.items():
            assert torch.allclose(tensor * (2 if "lora_B" in key else 1), adapter[block][key])


@pytest.mark.parametrize("settings_", [{}, {"use_rslora": True}, {"rank_pattern": {"0.attn.c_attn": 2}},
    {"rank_pattern": {"c_attn": 2}, "alpha_pattern": {"c_proj": 3}},
    {"rank_pattern": {r"h\.[12]\.attn\.c_attn": 3}, "alpha_pattern": {r"h\.1\..*": 5}, "use_rslora": True},
])  # fmt: skip
def test_adapters_made_by_peft_compute_the_same_here(settings_: dict[str, Any], tmp_path: Path) -> None:
    from peft import LoraConfig

    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True,
        init_lora_weights=False, task_type="CAUSAL_LM", **settings_,
    )  # fmt: skip
    torch.manual_seed(0)
    stock = get_peft_model(tiny_model("gpt2"), config).eval()
    stock.save_pretrained(str(tmp_path))
    model = tiny_model("gpt2")
    slots, _ = adapted(model, ["c_attn", "c_proj"])
    adapter = load_adapter(tmp_path, slots, job_for(tmp_path))
    assert all(len({rank_of({n: t}) for n, t in block.items()}) == 1 for block in adapter.values())
    slots.bind(adapter)
    ids = torch.arange(2, 22).reshape(2, 10)
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, stock(input_ids=ids).logits, atol=1e-5)


def stock_adapter(folder: Path, **settings_: Any) -> None:
    from peft import LoraConfig

    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"], "fan_in_fan_out": True, **settings_}
    )
    get_peft_model(tiny_model("gpt2"), config).save_pretrained(str(folder))


def break_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{", encoding="utf-8")


def cut_weights(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def other_kind(folder: Path) -> None:
    from peft import IA3Config

    config = IA3Config(target_modules=["c_attn"], feedforward_modules=[], fan_in_fan_out=True)
    get_peft_model(tiny_model("gpt2"), config).save_pretrained(str(folder))


def other_ranks(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_A" in name)
    save_file({**tensors, name: tensors[name][:2].clone()}, path)


BROKEN = {
    "missing": (lambda folder: shutil.rmtree(folder), "no adapter_config.json"),
    "pickled": (lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
                "no adapter_model.safetensors"),
    "cut short": (cut_weights, "cannot be read"),
    "no json": (break_config, "cannot be read"),
    "another kind": (other_kind, "IA3"),
    "dora": (lambda folder: stock_adapter(folder, use_dora=True), "use_dora"),
    "pissa": (lambda folder: stock_adapter(folder, init_lora_weights="pissa"), "pissa"),
    "rank too high": (lambda folder: stock_adapter(folder, r=5), "set lora_r"),
    "two ranks": (other_ranks, "has shape"),
    "other targets": (lambda folder: stock_adapter(folder, target_modules=["c_fc"]), "lora_target_modules"),
    "more targets": (lambda folder: stock_adapter(folder, target_modules=["c_attn", "c_fc"]), "c_fc"),
    "head": (lambda folder: stock_adapter(folder, modules_to_save=["lm_head"]), "lm_head"),
    "fewer blocks": (lambda folder: stock_adapter(folder, layers_to_transform=[0, 1]), "has no"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_adapters_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    stock_adapter(folder)
    slots, _ = adapted(tiny_model("gpt2"), ["c_attn"])
    assert load_adapter(folder, slots, job_for(tmp_path)).keys() == slots.layout.keys()
    change, message = BROKEN[case]
    change(folder)
    with pytest.raises(ModelError, match=message):
        load_adapter(folder, slots, job_for(tmp_path))
