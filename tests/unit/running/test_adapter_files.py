"""Promises of saved adapters: stock PEFT loads ours, ours loads stock PEFT's, the rest is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from adapters import adapted, equal, tiny_bert
from splitft import Job, ModelError
from splitft.lora.blocks import initial_adapter, rank_of, resize
from splitft.running.export import load_adapter, save_adapter
from tiny import tiny_model


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


def adaptive_ranks(folder: Path) -> None:
    from peft import AdaLoraConfig

    config = AdaLoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, total_step=10)
    get_peft_model(tiny_model("gpt2"), config).save_pretrained(str(folder))


def half_a_pair(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, path)


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
    "another kind": (other_kind, "no LoRA adapter but IA3: merge it"),
    "adalora": (adaptive_ranks, "no LoRA adapter but ADALORA: merge it"),
    "dora": (lambda folder: stock_adapter(folder, use_dora=True), "is a DoRA adapter: set use_dora: true"),
    "pissa": (lambda folder: stock_adapter(folder, init_lora_weights="pissa"),
              "base weights that its start has changed .* path_initial_model_for_weight_conversion"),
    "rank too high": (lambda folder: stock_adapter(folder, r=5), "set lora_r"),
    "two ranks": (other_ranks, "has shape"),
    "half a pair": (half_a_pair, "lacks a tensor of attn.c_attn"),
    "other targets": (lambda folder: stock_adapter(folder, target_modules=["c_fc"]),
                      r"adapts the layers mlp.c_fc, and this job attn.c_attn: set lora_.*: \['c_fc'\]"),
    "more targets": (lambda folder: stock_adapter(folder, target_modules=["c_attn", "c_fc"]),
                     r"set lora_target_modules: \['c_attn', 'c_fc'\]"),
    "a pattern": (lambda folder: stock_adapter(folder, target_modules=r".*\.(c_attn|c_fc)"),
                  r"set lora_target_modules: \.\*"),
    "some layers": (lambda folder: stock_adapter(
                        folder, target_modules=["c_attn", "c_fc"], exclude_modules=["h.1.mlp.c_fc"]),
                    "adapts the layers attn.c_attn, mlp.c_fc"),
    "head": (lambda folder: stock_adapter(folder, modules_to_save=["lm_head"]),
             r"trains lm_head as a whole \(modules_to_save\): merge"),
    "norm": (lambda folder: stock_adapter(folder, modules_to_save=["ln_f"]), "trains transformer.ln_f as a"),
    "adapted head": (lambda folder: stock_adapter(folder, target_modules=["c_attn", "lm_head"]),
                     "adapts lm_head, which lies outside the blocks: merge"),
    "adapted embeddings": (lambda folder: stock_adapter(folder, target_modules=["c_attn", "wte"]),
                           "outside the blocks: merge"),
    "new tokens": (lambda folder: stock_adapter(folder, trainable_token_indices=[3, 5]),
                   "trains new tokens .*, and embeddings lie outside"),
    "lora_bias": (lambda folder: stock_adapter(folder, lora_bias=True), r"a bias in its .*\(lora_bias\)"),
    "bias": (lambda folder: stock_adapter(folder, bias="all"), r"trains biases of the base .*\(bias: all\)"),
    "fewer blocks": (lambda folder: stock_adapter(folder, layers_to_transform=[0, 1]),
                     r"adapts the blocks 0, 1, and this job 0, 1, 2, 3: set layers_to_transform: \[0, 1\]"),
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


def test_layers_that_differ_in_some_blocks_are_named(tmp_path: Path) -> None:
    both = ["c_attn", "c_fc"]
    stock_adapter(tmp_path, target_modules=both, exclude_modules=["h.1.mlp.c_fc"])
    slots, _ = adapted(tiny_model("gpt2"), both)
    told = r"leaves out transformer.h.1.mlp.c_fc.*exclude_modules: \['h.1.mlp.c_fc'\]"
    with pytest.raises(ModelError, match=told):
        load_adapter(tmp_path, slots, job_for(tmp_path))
    slots, _ = adapted(tiny_model("gpt2"), ["c_attn"])
    with pytest.raises(ModelError, match="set train_front: true"):
        del slots.layout[0], slots.layout[1]
        stock_adapter(tmp_path / "all")
        load_adapter(tmp_path / "all", slots, job_for(tmp_path, train_front=False))
