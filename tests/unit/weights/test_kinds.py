"""A model that is no next-token model is refused from its configuration, in one line, for the true reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from commands import splitft
from splitft.errors import ModelError
from splitft.proof.every_type import default_config
from splitft.weights.kinds import auto_class, causal_class
from splitft.weights.load import load_config
from splitft.weights.shrink import NotBuiltError, shrink_config
from tiny import tiny_config

# What config.json says, and words of the reason.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "t5": ({"model_type": "t5"}, "is an encoder-decoder model, which reads one text and writes another"),
    "t5gemma": ({"model_type": "t5gemma"}, "is an encoder-decoder model"),
    "bart": ({"model_type": "bart", "architectures": ["BartModel"]}, "is an encoder-decoder model"),
    "whisper": ({"model_type": "whisper"}, "is an encoder-decoder model"),
    "clip": ({"model_type": "clip"}, "has no causal language model in the installed transformers"),
    "bert": ({"model_type": "bert"}, "is a masked language model, whose tokens see later ones"),
    "bert classifier": (
        {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
        "is a BertForSequenceClassification, which scores a whole text",
    ),
    "reward model": (
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
        "is a LlamaForSequenceClassification, which scores a whole text (a classifier or reward model)",
    ),
    "custom reward model": (
        {"model_type": "qwen2", "architectures": ["Qwen2ForRewardModel"]}, "is a Qwen2ForRewardModel",
    ),
    "tagger": (
        {"model_type": "qwen2", "architectures": ["Qwen2ForTokenClassification"]}, "gives every token a",
    ),
    "image classifier": ({"model_type": "shieldgemma2"}, "classifies images"),
    "diffusion model": ({"model_type": "diffusion_gemma"}, "which generates text by diffusion"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("command", ["check", "plan", "run", "server"])
def test_other_kinds_are_refused_from_the_configuration(
    kind: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The folder holds no weights and no tokenizer."""
    values, reason = REFUSED[kind]
    (tmp_path / "config.json").write_text(json.dumps(values))
    job = ["fixed-cuts", f"model_name_or_path={tmp_path}", f"output_dir={tmp_path / 'run'}"]
    arguments = {
        "check": [str(tmp_path)],
        "server": [
            *job,
            "--insecure",
            "labels=server",
            "privacy=server_reads",
            "network.clients=[ann]",
            "clients=1",
            "cuts=1",
        ],
    }.get(command, job)
    assert splitft(command, *arguments, monkeypatch=monkeypatch) == 4
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert str(tmp_path) in line and reason in line


@pytest.mark.parametrize(
    ("file", "values", "reason"),
    [
        (
            "adapter_config.json",
            {"base_model_name_or_path": "meta-llama/Llama-3.2-1B", "peft_type": "LORA"},
            r"holds a PEFT adapter and no model: set model_name_or_path to its base .*/Llama-3.2-1B\), "
            "and adapter_name_or_path",
        ),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "is a diffusion pipeline"),
        ("other.json", {}, "has no config.json"),
    ],
)
def test_folders_that_hold_no_model_are_told_apart(
    file: str, values: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(json.dumps(values))
    with pytest.raises(ModelError, match=reason):
        load_config(tmp_path)


@pytest.mark.parametrize("model_type", ["blip-2", "kosmos-2", "idefics"])
def test_a_model_that_needs_images_is_refused(model_type: str) -> None:
    with pytest.raises(ModelError, match="needs an image with every text"):
        shrink_config(default_config(model_type))


def test_a_run_refuses_a_model_that_needs_images_before_it_reads_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    default_config("kosmos-2").save_pretrained(tmp_path)
    job = ["fixed-cuts", f"model_name_or_path={tmp_path}", f"output_dir={tmp_path / 'run'}"]
    assert splitft("run", *job, monkeypatch=monkeypatch) == 4
    assert "needs an image with every text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [("bert", {"is_decoder": True}), ("gpt_neox", {}), ("llama", {"architectures": ["LlamaForCausalLM"]}),
     ("llama", {"architectures": ["LlamaModel"]}), ("gemma3", {}), ("qwen2_vl", {})],
)  # fmt: skip
def test_next_token_models_pass(model_type: str, settings: dict[str, Any], tmp_path: Path) -> None:
    CONFIG_MAPPING[model_type](**settings).save_pretrained(tmp_path)
    assert load_config(tmp_path).model_type == model_type


def test_a_vision_language_model_is_its_own_class() -> None:
    config = default_config("qwen2_vl")
    assert causal_class(config)[0].__name__ == "Qwen2VLForConditionalGeneration"
    assert (auto_class(config), auto_class(tiny_config("llama"))) == (
        "AutoModelForImageTextToText",
        "AutoModelForCausalLM",
    )


def test_a_small_copy_of_another_kind_is_refused_for_its_kind() -> None:
    with pytest.raises(ModelError, match="classifies images") as refusal:
        shrink_config(default_config("shieldgemma2"))
    assert not isinstance(refusal.value, NotBuiltError)


@pytest.mark.parametrize("model_type", ["mllama", "emu3"])
def test_a_text_part_that_no_auto_class_knows_has_its_class(model_type: str) -> None:
    model_class, text = causal_class(default_config(model_type))
    assert text.model_type != model_type and causal_class(text)[0] is model_class
