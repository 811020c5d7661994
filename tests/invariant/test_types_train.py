"""A job on a type that is called exact trains, exports and loads, with the targets that nobody stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_bits, assert_same_losses, final_adapter, perplexity, trained, tuned

from cases import rest_slow
from commands import splitft
from reference import federated_lora, write_rows
from splitft import Job
from splitft.errors import ModelError
from splitft.model.config import text_config
from splitft.proof.every_type import causal_types, default_config
from splitft.weights.kinds import image_tokens
from splitft.weights.shrink import shrink_config, tiny_random_model
from tiny import VOCAB_SIZE, save_to

# Each failed with a traceback, or left an adapter that nothing could load.
MENDED = ["deepseek_v3", "mamba", "ctrl", "qwen3_next", "llama4_text", "phimoe", "falcon_h1"]


def settings_of(model_type: str, folder: Path) -> dict[str, Any]:
    """Write a small random model of a type, and rows; return the settings of a job on it."""
    config = shrink_config(default_config(model_type))
    text = text_config(config)
    for name in [name for name, value in vars(text).items() if "vocab" in name and value == text.vocab_size]:
        setattr(text, name, VOCAB_SIZE)
    marks = image_tokens(config)
    for number, name in enumerate(marks):  # beyond the tokenizer's
        setattr(config, name, VOCAB_SIZE + number)
    text.vocab_size += len(marks)
    tiny_random_model(config, scale=0.05).save_pretrained(folder / "model")
    config.save_pretrained(folder / "model")  # of all its parts, as a checkpoint of several states it
    return {
        "model_name_or_path": str(save_to(folder / "model")),
        "data_files": str(write_rows(folder / "rows.txt")), "max_length": 16, "max_eval_samples": 4,
        "clients": 2, "cuts": [1, 2], "rounds": 1, "local_steps": 3, "per_device_train_batch_size": 2,
        "codec": "none", "lora_r": 4, "learning_rate": 0.01, "use_cpu": True,
    }  # fmt: skip


def assert_trains_and_loads(model_type: str, folder: Path) -> None:
    """A job at two cuts ends in an adapter that stock peft loads, and that both train further bit by bit."""
    settings = settings_of(model_type, folder)
    job, result = trained(settings, folder / "first")
    last = result.history[-1].perplexity
    assert last != result.history[0].perplexity
    assert perplexity(tuned(job, result), job) == pytest.approx(last, rel=1e-4)
    # Rows without padding: experts compute all their tokens at once, and padding does not cross a cut.
    alone = {"padding_free": False, "per_device_train_batch_size": 1, "eval_every": 9}
    settings |= alone | {"adapter_name_or_path": str(result.adapter_path)}
    unsplit, losses = federated_lora(Job(**settings))
    _, split = trained(settings, folder / "further")
    assert_same_losses(split, losses)
    assert_same_bits(final_adapter(split), unsplit)


@pytest.mark.parametrize("model_type", rest_slow(MENDED, 1))
def test_types_whose_default_targets_failed(model_type: str, tmp_path: Path) -> None:
    assert_trains_and_loads(model_type, tmp_path)


def test_an_exported_adapter_of_experts_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("deepseek_v3", tmp_path)
    _, result = trained(settings, tmp_path / "run")
    (notice,) = [note for note in result.summary["notices"] if "LoRA" in note]
    assert notice.startswith("no LoRA on gate_proj, up_proj, down_proj: ") and "fused experts" in notice
    assert not splitft("export", result.output_dir, tmp_path / "merged", "--merge", monkeypatch=monkeypatch)
    assert (tmp_path / "merged" / "config.json").exists()


@pytest.mark.parametrize(("model_type", "targets"), [("deepseek_v3", ["down_proj"]), ("mamba", ["out_proj"])])
def test_a_stated_target_that_cannot_be_adapted_is_refused(
    model_type: str, targets: list[str], tmp_path: Path
) -> None:
    settings = settings_of(model_type, tmp_path) | {"lora_target_modules": targets}
    with pytest.raises(ModelError, match=f"lora_target_modules: LoRA cannot adapt {targets[0]}"):
        trained(settings, tmp_path / "run")


@pytest.mark.parametrize("model_type", ["bert-generation", "xlnet", "trocr"])
def test_a_model_that_only_splits_is_refused(model_type: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be trained: .*(later ones|not that of the next token)"):
        trained(settings_of(model_type, tmp_path), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("model_type", causal_types())
def test_every_type_that_is_called_exact(model_type: str, tmp_path: Path) -> None:
    from splitft.proof.split import check_split

    try:
        report = check_split(default_config(model_type), [1, 2])
    except Exception as error:
        pytest.skip(f"no model could be built: {error}")
    if not report.ok:
        pytest.skip(report.reason)
    assert_trains_and_loads(model_type, tmp_path)
