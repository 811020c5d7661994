"""Quantised checkpoints: the methods that train here, those that are dequantised when loaded, and the others.

A method is named by `quantization_config` in a checkpoint's config.json. Nothing is quantised here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from splitft.errors import ModelError

_DEQUANTIZE = "dequantize it first, or take the checkpoint that it was made from"


@dataclass(frozen=True)
class Method:
    """A way of quantising.

    packages: with which transformers reads it, as pip names them.
    dequantized: its weights become plain ones when they are loaded; else they stay as they are.
    """

    packages: tuple[str, ...] = ()
    dequantized: bool = False


METHODS = {
    "bitsandbytes": Method(("bitsandbytes",)),
    "compressed-tensors": Method(("compressed-tensors",), dequantized=True),
    "fp8": Method(dequantized=True),  # its matrix products in 8 bits need kernels from the hub
    "mxfp4": Method(dequantized=True),  # as fp8
    "torchao": Method(("torchao",)),
}


# Methods that have a reason of their own to be refused.
_INFERENCE = "which the package gptqmodel reads; its layers pass no gradient on a CPU (7.7, gptq in bfloat16)"
REFUSED = {"awq": _INFERENCE, "gptq": _INFERENCE}


@dataclass(frozen=True)
class Quantization:
    """The quantisation of one checkpoint."""

    name: str  # of the method
    kind: str  # of its values, as its configuration calls them; may be empty
    method: Method

    def __str__(self) -> str:
        return f"{self.name} {self.kind}".strip()


def quantization(config: Any) -> Quantization | None:
    """Return the quantisation that a configuration states; None: the weights are plain.

    Raises ModelError where nothing trains on it, or a package is not there.
    """
    values = _values(config)
    if values is None:
        return None
    eight_bits = values.get("load_in_8bit") is True
    name = str(values.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in values else ""))
    if name in REFUSED:
        raise ModelError(f"the checkpoint is quantised by {name}, {REFUSED[name]}: {_DEQUANTIZE}")
    if name not in METHODS:
        raise ModelError(
            f"the checkpoint is quantised by {name or 'a method without a name'}, and no job trains on that "
            f"(only on {', '.join(METHODS)}): {_DEQUANTIZE}"
        )
    if name == "bitsandbytes" and eight_bits:
        raise ModelError(
            "the checkpoint is quantised by bitsandbytes in 8 bits (LLM.int8), which picks outlier columns "
            f"over all rows of a batch: a row's result would depend on the rows beside it; {_DEQUANTIZE}"
        )
    method = METHODS[name]
    lacking = [package for package in method.packages if find_spec(package.replace("-", "_")) is None]
    if lacking:
        raise ModelError(
            f"the checkpoint is quantised by {name}, which needs a package that is not here: "
            f"pip install {' '.join(lacking)}"
        )
    return Quantization(name, _kind(name, values), method)


def read_dequantized(config: Any) -> None:
    """Have from_pretrained dequantise, in place in a configuration, where the method asks for that."""
    found = quantization(config)
    if found is not None and found.method.dequantized:
        config.quantization_config = {**(_values(config) or {}), "dequantize": True}


def finish_loading(model: Any, found: Quantization, dtype: torch.dtype) -> None:
    """Make a loaded model trainable as its method in METHODS says, in place.

    Raises ModelError where the installed transformers has left weights quantised that are to be plain.
    """
    if found.method.dequantized and _values(model.config) is not None:
        raise ModelError(
            f"the installed transformers does not dequantise {found.name} when it loads: update transformers"
        )
    # Plain weights in the dtype asked for: fp8 comes in bfloat16, bitsandbytes leaves the others as stored.
    wide = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    for name, parameter in model.named_parameters():
        plain = type(parameter.data) is torch.Tensor and parameter.is_floating_point()
        if plain and not any(part in name for part in wide):
            parameter.data = parameter.data.to(dtype)
    # bitsandbytes packs 4-bit weights in the first forward in eval mode on a CPU with AVX512-BF16 (0.50,
    # `Linear4bit.forward`), and no gradient passes packed weights.
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False


def _values(config: Any) -> dict[str, Any] | None:
    given = getattr(config, "quantization_config", None)
    if given is None or isinstance(given, dict):
        return given or None
    values: dict[str, Any] = given.to_dict()
    method = values.get("quant_method")
    return {**values, "quant_method": getattr(method, "value", method)}


def _kind(name: str, values: dict[str, Any]) -> str:
    if name == "bitsandbytes":
        return str(values.get("bnb_4bit_quant_type", ""))
    if name == "torchao":
        kind: Any = values.get("quant_type")
        kind = kind.get("default", kind) if isinstance(kind, dict) else kind
        return str(kind.get("_type", "") if isinstance(kind, dict) else kind)
    return str(values.get("format") or (f"{values['bits']} bits" if "bits" in values else ""))
