"""Checkpoints that state a quantisation: which ones are refused, each with its reason."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import splitft
from quantized import FP8, fp8, quantize_folder, save_mxfp4, state
from splitft.errors import ModelError
from splitft.proof.split import check_split
from splitft.weights.load import load_config, load_model
from splitft.weights.quantized import METHODS, quantization
from tiny import save_tiny_model, tiny_model

REFUSED = [
    ({"quant_method": "odd"}, "is quantised by odd, and no job trains on that"),
    (
        {"quant_method": "gptq", "bits": 4},
        "by gptq, which the package gptqmodel reads; its layers pass no gr",
    ),
    (
        {"quant_method": "awq", "bits": 4},
        "by awq, which the package gptqmodel reads; its layers pass no grad",
    ),
    ({"bits": 4}, "a method without a name"),
    ({"quant_method": "hqq", "nbits": 4}, "is quantised by hqq, and no job trains on that"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "outlier columns over all rows of a batch"),
]


@pytest.mark.parametrize(("stated", "reason"), REFUSED, ids=lambda value: str(value)[:30])
def test_a_method_that_does_not_train_is_refused(stated: dict[str, Any], reason: str, tmp_path: Path) -> None:
    folder = state(save_tiny_model(tmp_path / "model", "llama"), stated)
    for load in (load_config, load_model, lambda name: load_model(name, blocks={0}, head=False)):
        with pytest.raises(ModelError, match=reason):
            load(folder)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.packages])
def test_a_missing_package_is_named(name: str, tmp_path: Path) -> None:
    lacking = [p for p in METHODS[name].packages if find_spec(p.replace("-", "_")) is None]
    if not lacking:
        pytest.skip(f"the packages of {name} are installed")
    folder = state(save_tiny_model(tmp_path / "model", "llama"), {"quant_method": name, "bits": 4})
    with pytest.raises(ModelError, match=f"is quantised by {name}, which needs .*pip install {lacking[0]}"):
        load_config(folder)


def test_the_command_line_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    state(save_tiny_model(tmp_path / "model", "llama"), {"quant_method": "odd"})
    job = ["fixed-cuts", "model_name_or_path=model"]
    for command in (["check", "model"], ["run", *job], ["plan", *job]):
        assert splitft(*command, monkeypatch=monkeypatch) == 4
        told = capsys.readouterr().err
        assert "quantised by odd, and no job trains on that" in " ".join(told.split()), told


def test_fp8_is_dequantised_in_the_dtype_asked_for(tmp_path: Path) -> None:
    plain = save_tiny_model(tmp_path / "plain", "llama")
    folder = quantize_folder(plain, tmp_path / "fp8", FP8, fp8)
    found = quantization(load_config(folder))
    assert found is not None and found.method.dequantized and str(found) == "fp8"
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(folder, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {dtype} and quantization(model.config) is None
        for (name, got), wanted in zip(
            model.named_parameters(), tiny_model("llama").parameters(), strict=True
        ):
            apart = (got.float() - wanted).abs().max() / wanted.abs().max()
            assert apart < 0.06, name  # 8-bit floats keep four bits


def test_mxfp4_experts_are_dequantised(tmp_path: Path) -> None:
    folder = save_mxfp4(tmp_path / "mxfp4", exponent=-6)
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(folder, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {dtype}
        values = model.model.layers[0].mlp.experts.down_proj.float().unique() * 2**6
        assert values.abs().unique().tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
        assert check_split(model, [1, 2]).ok
