"""Rows of text train the text model of a vision-language model, as they train a causal one: I1 to I4, I6."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from plans import assert_is_the_run, planned
from runs import assert_same_bits, assert_same_losses, final_adapter, perplexity, trained, tuned
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from cases import rest_slow
from commands import splitft
from network_threads import together
from reference import federated_lora, stock_model, write_rows
from splitft import Job
from splitft.errors import DataError
from splitft.model.config import text_config
from splitft.proof.every_type import default_config
from splitft.weights.kinds import image_tokens
from splitft.weights.shrink import shrink_config, tiny_random_model
from tiny import EOS_ID, PAD_ID, VOCAB_SIZE, save_to

# The path of the text model's blocks, and names of linear layers that the vision tower has, too.
TYPES = {
    "qwen2_vl": "model.language_model.layers",
    "llava": "model.language_model.layers",
    "qwen2_5_vl": "model.language_model.layers",
    "qwen3_vl": "model.language_model.layers",
    "mistral3": "model.language_model.layers",
    "internvl": "model.language_model.layers",
    "smolvlm": "model.text_model.layers",
    "paligemma": "model.language_model.layers",
}


def make_setting(folder: Path, model_type: str) -> dict[str, Any]:
    """Write a small vision-language model, rows and a random adapter of its text model; return settings."""
    config = shrink_config(default_config(model_type))
    text = text_config(config)
    marks = image_tokens(config)
    for number, name in enumerate(marks):
        setattr(config, name, VOCAB_SIZE + number)  # beyond the tokenizer's
    text.vocab_size, text.pad_token_id, text.eos_token_id = VOCAB_SIZE + len(marks), PAD_ID, EOS_ID
    tiny_random_model(config, scale=0.1).save_pretrained(folder / "model")
    (folder / "model" / "preprocessor_config.json").write_text('{"image_processor_type": "any"}')
    path = TYPES[model_type].replace(".", r"\.")
    lora = LoraConfig(
        r=4, lora_alpha=8, target_modules=rf"{path}\..*\.(q_proj|v_proj)", init_lora_weights=False,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(3)
    get_peft_model(stock_model(folder / "model"), lora).save_pretrained(str(folder / "adapter"))
    return {
        "model_name_or_path": str(save_to(folder / "model")),
        "adapter_name_or_path": str(folder / "adapter"), "data_files": str(write_rows(folder / "rows.txt")),
        "max_length": 24, "codec": "none", "padding_free": False, "max_eval_samples": 4,
        "lora_r": 4, "lora_alpha": 8, "lora_target_modules": ["q_proj", "v_proj"], "learning_rate": 5e-3,
        "per_device_train_batch_size": 3, "use_cpu": True, "clients": 1, "rounds": 4, "local_steps": 2,
    }  # fmt: skip


@pytest.mark.parametrize("model_type", rest_slow(TYPES, 1))
def test_one_client_at_every_cut_trains_the_unsplit_model(model_type: str, tmp_path: Path) -> None:
    settings = make_setting(tmp_path, model_type)
    adapter, losses = federated_lora(Job(**settings))
    start = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(not torch.equal(adapter[name], start[name]) for name in start), "nothing was trained"
    for cut in (1, 2, 3):
        _, result = trained(settings, tmp_path / f"cut{cut}", cuts=cut)
        assert_same_losses(result, losses)
        assert_same_bits(final_adapter(result), adapter)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "llava"])
def test_any_cuts_give_federated_lora_and_labels_may_stay_at_home(model_type: str, tmp_path: Path) -> None:
    settings = make_setting(tmp_path, model_type) | {"clients": 3, "rounds": 2}
    adapter, losses = federated_lora(Job(**settings))
    for number, changes in enumerate(({"cuts": [1, 3, 2]}, {"cuts": [1, 2, 2], "labels": "client"})):
        _, result = trained(settings, tmp_path / f"run{number}", **changes)
        assert_same_losses(result, losses)
        assert_same_bits(final_adapter(result), adapter)


def test_stock_peft_loads_the_adapter_on_the_vision_language_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_setting(tmp_path, "qwen2_vl") | {"clients": 2, "cuts": [1, 2], "lora_r_cut": 2}
    job, result = trained(settings, tmp_path / "run")
    model = tuned(job, result)
    assert type(model.get_base_model()).__name__ == "Qwen2VLForConditionalGeneration"
    assert perplexity(model, job) == pytest.approx(result.history[-1].perplexity, rel=1e-5)
    assert all(TYPES["qwen2_vl"] in name for name in final_adapter(result))
    card = (result.adapter_path / "README.md").read_text(encoding="utf-8")
    assert (
        "AutoModelForImageTextToText.from_pretrained(" in card and "pipeline_tag: image-text-to-text" in card
    )
    # Merged, with what prepares its images.
    merged = tmp_path / "merged"
    assert splitft("export", result.output_dir, merged, "--merge", monkeypatch=monkeypatch) == 0
    ids = torch.arange(2, 62).reshape(3, 20)
    whole = AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32).eval()
    with torch.no_grad():
        assert (whole(ids).logits - model(ids).logits).abs().max() <= 1e-4
    assert (merged / "preprocessor_config.json").is_file()


@pytest.mark.parametrize("model_type", ["qwen2_vl", "smolvlm"])
def test_a_plan_is_the_run_and_counts_no_vision_tower(model_type: str, tmp_path: Path) -> None:
    settings = make_setting(tmp_path, model_type) | {"clients": 2, "cuts": [1, 2]}
    plan = planned(settings)
    _, result = trained(settings, tmp_path / "run")
    assert_is_the_run(plan, result)


def test_rows_with_the_mark_of_an_image_are_refused(tmp_path: Path) -> None:
    settings = make_setting(tmp_path, "qwen2_vl")
    path = tmp_path / "model" / "config.json"
    values = json.loads(path.read_text())
    text = " ".join(Path(settings["data_files"]).read_text().split()[:2])
    ids = AutoTokenizer.from_pretrained(tmp_path / "model")(text)["input_ids"]
    path.write_text(json.dumps(values | {"image_token_id": ids[-1]}))
    with pytest.raises(DataError, match=r"the model's image_token_id, and SplitFT trains on text alone"):
        trained(settings, tmp_path / "run")


@pytest.mark.parametrize("model_type", rest_slow(["qwen2_vl", "smolvlm"], 1))
def test_a_network_gives_the_adapter_of_one_process(model_type: str, tmp_path: Path) -> None:
    """Its parties hold their blocks of the text model, and no vision tower."""
    settings = make_setting(tmp_path, model_type)
    rows = {
        name: str(write_rows(tmp_path / f"{name}.txt", seed=seed)) for seed, name in enumerate(("ann", "bob"))
    }
    settings |= {
        "data_files": rows, "clients": 2, "cuts": [1, 2], "rounds": 2, "network": {"clients": ["ann", "bob"]},
        "privacy": "server_reads",
        "labels": "server",
    }  # fmt: skip
    del settings["adapter_name_or_path"]
    _, result = trained(settings, tmp_path / "local")
    folder = together(settings, tmp_path / "network")
    remote = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert_same_bits(remote, final_adapter(result))
    counted = [
        json.loads((where / "summary.json").read_text())["bytes"] for where in (folder, result.output_dir)
    ]
    assert counted[0]["up"]["activations"] == counted[1]["up"]["activations"]
