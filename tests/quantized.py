"""Small quantised checkpoints, made by hand or by the packages that the tests then read them with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GptOssConfig

Tensors = dict[str, Tensor]
Quantize = Callable[[str, Tensor], Tensors]  # a linear layer's weight to the tensors that stand for it
_BLOCK = 16  # rows and columns of a weight that share a scale


def quantize_folder(plain: Path, folder: Path, stated: dict[str, Any], quantize: Quantize) -> Path:
    """Write a model's folder with its linear layers quantised, and the rest in bfloat16."""
    shutil.copytree(plain, folder)
    tensors: Tensors = {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        tensors |= quantize(name, tensor) if "proj.weight" in name else {name: tensor.bfloat16()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return state(folder, stated)


def state(folder: Path, stated: dict[str, Any], dtype: str = "bfloat16") -> Path:
    """State a quantisation in a model's configuration."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": stated, "dtype": dtype}
    path.write_text(json.dumps(config))
    return folder


def fp8(name: str, weight: Tensor) -> Tensors:
    """Blocks of 8-bit floats, each with a scale."""
    rows, columns = weight.shape
    blocks = weight.view(rows // _BLOCK, _BLOCK, columns // _BLOCK, _BLOCK)
    scales = blocks.abs().amax((1, 3)) / 448
    values = (blocks / scales[:, None, :, None]).view(rows, columns)
    return {name: values.to(torch.float8_e4m3fn), f"{name}_scale_inv": scales}


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [_BLOCK, _BLOCK]}


def int8(name: str, weight: Tensor) -> Tensors:
    """Integers of 8 bits, a scale for each row."""
    scales = weight.abs().amax(1, keepdim=True) / 127
    return {name: (weight / scales).round().to(torch.int8), f"{name}_scale": scales.bfloat16()}


INT8 = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
    "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
        "num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False,
    }}},
}  # fmt: skip


def save_mxfp4(folder: Path, exponent: int) -> Path:
    """Write a small model whose experts are random 4-bit floats, all with the scale 2 ** exponent."""
    config = GptOssConfig(
        vocab_size=320, hidden_size=64, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2,
        max_position_embeddings=128, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    tensors: Tensors = {}
    for name, tensor in AutoModelForCausalLM.from_config(config).state_dict().items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[name] = (0.1 * torch.randn(tensor.shape, generator=generator)).bfloat16()
            continue
        experts, inputs, outputs = tensor.shape
        shape = (experts, outputs, inputs // 32)  # 32 values share a scale, and 16 bytes hold them
        pairs = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=generator)
        scales = torch.full(shape, 127 + exponent, dtype=torch.uint8)
        tensors |= {f"{name}_blocks": pairs, f"{name}_scales": scales}
    config.save_pretrained(str(folder))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return state(folder, {"quant_method": "mxfp4"})


def save_quantized(plain: Path, folder: Path, config: Any) -> Path:
    """Write a model's folder as transformers quantises and saves it. config: for from_pretrained."""
    shutil.copytree(plain, folder)
    (folder / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, dtype=torch.float32)
    model.save_pretrained(str(folder))
    return folder
