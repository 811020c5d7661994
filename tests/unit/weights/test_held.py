"""The dtype of the base, and the notice where a run holds more than the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from quantized import FP8, fp8, quantize_folder, state
from splitft.errors import ModelError
from splitft.job.settings import ModelSettings
from splitft.weights.held import base_dtype, base_notice
from splitft.weights.load import load_config, load_model
from tiny import save_tiny_model, tiny_model


def settings(folder: Path, **keys: Any) -> ModelSettings:
    return ModelSettings(model_name_or_path=str(folder), **keys)


def save(folder: Path, dtype: torch.dtype) -> Path:
    tiny_model("llama").to(dtype).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(("keys", "stored", "expected"), [
    ({}, "bfloat16", "float32"),
    ({"bf16": True}, "float32", "bfloat16"),
    ({"dtype": "bfloat16"}, "float32", "bfloat16"),
    ({"dtype": "float32"}, "bfloat16", "float32"),
    ({"dtype": "auto"}, "bfloat16", "bfloat16"),
    ({"dtype": "auto"}, "float32", "float32"),
])  # fmt: skip
def test_the_base_is_held_as_the_job_says(
    keys: dict[str, Any], stored: str, expected: str, tmp_path: Path
) -> None:
    folder = save(tmp_path / "model", getattr(torch, stored))
    dtype = base_dtype(settings(folder, **keys), load_config(folder))
    assert dtype is getattr(torch, expected)
    assert {p.dtype for p in load_model(folder, dtype=dtype).parameters()} == {dtype}
    assert base_dtype(settings(folder, **keys), load_model(folder, dtype=dtype).config) is dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_reads_the_first_tensor_where_the_configuration_is_silent(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = save(tmp_path / "model", dtype)
    config = load_config(folder)
    config.dtype = None
    assert base_dtype(settings(folder, dtype="auto"), config) is dtype
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="cannot be read"):
        base_dtype(settings(folder, dtype="auto"), config)


def test_auto_refuses_a_checkpoint_in_float16(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", torch.float16)
    with pytest.raises(ModelError, match="in float16, in which small gradients become zero; set dtype: bfl"):
        base_dtype(settings(folder, dtype="auto"), load_config(folder))
    assert base_dtype(settings(folder), load_config(folder)) is torch.float32


def test_a_wider_base_is_told_with_its_bytes(tmp_path: Path) -> None:
    model = tiny_model("llama")
    folder, count = save(tmp_path / "model", torch.bfloat16), sum(p.numel() for p in model.parameters())
    notice = base_notice(settings(folder), load_config(folder), folder)
    assert notice == (
        f"the checkpoint is in bfloat16, and this run holds it in float32, {4 * count / 1e6:.3g} MB: "
        f"dtype: bfloat16 takes {2 * count / 1e6:.3g} MB"
    )
    for keys in ({"dtype": "auto"}, {"bf16": True}):
        assert base_notice(settings(folder, **keys), load_config(folder), folder) == ""
    assert base_notice(settings(folder), load_config(save(tmp_path / "wide", torch.float32)), folder) == ""


def test_a_dequantised_base_is_told_with_the_bytes_of_its_files(tmp_path: Path) -> None:
    plain = save_tiny_model(tmp_path / "plain", "llama")
    folder = quantize_folder(plain, tmp_path / "fp8", FP8, fp8)
    files = (folder / "model.safetensors").stat().st_size
    notice = base_notice(settings(folder), load_config(folder), folder)
    assert notice.startswith(f"the checkpoint is quantised (fp8, {files / 1e6:.3g} MB in its files) and deq")
    notice = base_notice(settings(plain), load_config(state(plain, FP8)), plain)
    assert "its files hold plain weights: they are taken as they are, and held in float32" in notice
