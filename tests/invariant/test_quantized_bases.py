"""I1, I3 and I4 on quantised checkpoints: the run is stock peft's on the same checkpoint, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from runs import assert_same_bits, assert_same_losses, final_adapter, perplexity, trained
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from network_threads import together
from quantized import FP8, INT8, fp8, int8, quantize_folder, save_quantized
from reference import UnsplitClient, federated_lora, make_setting, write_rows
from run_files import adapter_of
from splitft import Job
from splitft.errors import ModelError
from splitft.running.export import export_command
from splitft.weights.load import load_model


class Dequantized(UnsplitClient):
    """Stock training on a checkpoint that transformers dequantises, all of it in float32."""

    def base(self) -> Any:
        config = {**self.stated(), "dequantize": True}
        return AutoModelForCausalLM.from_pretrained(
            self.job.model_name_or_path, quantization_config=stock(config), dtype=torch.float32
        ).float()

    def stated(self) -> dict[str, Any]:
        return FP8 if self.job.model_name_or_path.endswith("fp8") else INT8


def stock(config: dict[str, Any]) -> Any:
    """Return transformers' own configuration of a quantisation."""
    from transformers import CompressedTensorsConfig, FineGrainedFP8Config

    return (FineGrainedFP8Config if config["quant_method"] == "fp8" else CompressedTensorsConfig)(**config)


def nf4(plain: Path, folder: Path) -> Path:
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    return save_quantized(plain, folder, config)


def torchao(kind: str) -> Callable[[Path, Path], Path]:
    def make(plain: Path, folder: Path) -> Path:
        import torchao.quantization

        return save_quantized(plain, folder, TorchAoConfig(getattr(torchao.quantization, kind)()))

    return make


MAKE: dict[str, tuple[str, type[UnsplitClient], Callable[[Path, Path], Path]]] = {
    "fp8": ("", Dequantized, lambda plain, folder: quantize_folder(plain, folder, FP8, fp8)),
    "int8": ("compressed-tensors", Dequantized, lambda p, folder: quantize_folder(p, folder, INT8, int8)),
    "nf4": ("bitsandbytes", UnsplitClient, nf4),
    "ao8": ("torchao", UnsplitClient, torchao("Int8WeightOnlyConfig")),
}
KEPT = ("nf4", "ao8")  # quantised while they train


@pytest.fixture(scope="module", params=MAKE)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a job on a quantised checkpoint."""
    package, _, make = MAKE[request.param]
    if package and find_spec(package.replace("-", "_")) is None:
        pytest.skip(f"{package} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    settings = make_setting(folder, "llama", hidden_size=64, intermediate_size=128)
    quantised = make(Path(settings["model_name_or_path"]), folder / request.param)
    return {**settings, "model_name_or_path": str(quantised), "clients": 1, "rounds": 4, "local_steps": 2}


def name_of(case: dict[str, Any]) -> str:
    return Path(case["model_name_or_path"]).name


def test_one_client_trains_as_stock_peft_does(case: dict[str, Any], tmp_path: Path) -> None:
    adapter, losses = federated_lora(Job(**case), MAKE[name_of(case)][1])
    start = load_file(Path(case["adapter_name_or_path"]) / "adapter_model.safetensors")
    assert all(not torch.equal(adapter[name], start[name]) for name in start), "nothing was trained"
    for cut in (1, 3):
        _, result = trained(case, tmp_path / f"cut{cut}", cuts=cut, dtype="float32")
        assert_same_losses(result, losses)
        assert_same_bits(final_adapter(result), adapter)
        (notice,) = result.summary["notices"]
        assert "quantised (" in notice and " MB in its files)" in notice


def test_the_adapter_computes_on_the_base_what_the_run_evaluated(
    case: dict[str, Any], tmp_path: Path
) -> None:
    job, result = trained(case, tmp_path / "run", cuts=2, dtype="float32", eval_every=1)
    base = load_model(case["model_name_or_path"])
    model = PeftModel.from_pretrained(base, str(result.adapter_path)).eval()
    assert perplexity(model, job) == pytest.approx(result.history[-1].perplexity, rel=1e-5)
    merge = partial(export_command, tmp_path / "run", tmp_path / "merged", merge=True)
    if name_of(case) in KEPT:
        with pytest.raises(ModelError, match=r"is quantised .*: a merge would round the adapter to its val"):
            merge()
    else:
        merged = AutoModelForCausalLM.from_pretrained(merge(), dtype=torch.float32)
        assert not hasattr(merged.config, "quantization_config")
        assert perplexity(merged.eval(), job) == pytest.approx(result.history[-1].perplexity, rel=1e-4)


def test_a_network_run_holds_what_the_server_says(case: dict[str, Any], tmp_path: Path) -> None:
    """Each party loads its part of the quantised checkpoint, in the dtype that the server settled."""
    files = {
        name: str(write_rows(tmp_path / f"{name}.txt", 20, seed)) for seed, name in enumerate(("a", "b"))
    }
    settings = case | {
        "data_files": files, "partition": {"method": "files"}, "clients": 2, "cuts": [1, 3],
        "labels": "server", "dtype": "auto",
    }  # fmt: skip
    trained(settings, tmp_path / "local")
    run = together({**settings, "network": {"clients": ["a", "b"]}}, tmp_path)
    assert adapter_of(run) == adapter_of(tmp_path / "local")
    assert Job(**settings, output_dir=str(run)).dtype == "auto"


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
def test_layers_that_pass_no_gradient_are_refused(tmp_path: Path) -> None:
    settings = make_setting(tmp_path, "llama", hidden_size=64, intermediate_size=128)
    make = torchao("Int8DynamicActivationInt8WeightConfig")
    folder = make(Path(settings["model_name_or_path"]), tmp_path / "dynamic")
    with pytest.raises(ModelError, match=r"cannot train on it: 0.self_attn.q_proj"):
        trained({**settings, "model_name_or_path": str(folder)}, tmp_path / "run", cuts=2)
