"""The dtype in which a base model is held, and what a run says where that is not the checkpoint's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from splitft.errors import ModelError
from splitft.job.settings import ModelSettings
from splitft.weights.hub import SINGLE, locator, resolve_model
from splitft.weights.kinds import causal_class
from splitft.weights.load import find_weights
from splitft.weights.quantized import quantization

_STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # safetensors' names


def base_dtype(job: ModelSettings, config: Any) -> torch.dtype:
    """Return the dtype of the frozen base; of a quantised one, of the weights that are not quantised.

    config: of the checkpoint, or of the model as it was loaded. Raises ModelError where `dtype: auto` meets a
    checkpoint in another dtype than float32 and bfloat16.
    """
    if job.dtype == "bfloat16" or (job.dtype is None and job.bf16):
        return torch.bfloat16
    own = _own_dtype(config)
    if job.dtype == "auto":
        own = own or _first_dtype(job)
        if own in (torch.float32, torch.bfloat16):
            return own
        raise ModelError(
            f"dtype: auto cannot be used: the checkpoint is in {_name(own)}, in which small gradients become "
            "zero; set dtype: bfloat16 or float32"
        )
    found = quantization(config) if job.dtype is None else None
    stays = found is not None and not found.method.dequantized and own is torch.bfloat16
    return torch.bfloat16 if stays else torch.float32


def base_notice(job: ModelSettings, config: Any, source: Path | str) -> str:
    """Return one sentence where a base is quantised, or wider than its checkpoint; else an empty string.

    source: the model's folder or hub id.
    """
    found, dtype, own = quantization(config), base_dtype(job, config), _own_dtype(config)
    if found is None and (dtype is not torch.float32 or own not in (torch.bfloat16, torch.float16)):
        return ""
    # The bytes of all weights as they are held, and in bfloat16.
    parameters = _parameters(config)
    held = f"{_name(dtype)}, {_size(parameters * dtype.itemsize)}"
    hint = f": dtype: bfloat16 takes {_size(2 * parameters)}" if dtype is torch.float32 else ""
    if found is None:
        return f"the checkpoint is in {_name(own)}, and this run holds it in {held}{hint}"
    files = sorted(source.glob("*.safetensors")) if isinstance(source, Path) else []  # a hub's: not yet here
    size = f", {_size(sum(file.stat().st_size for file in files))} in its files" if files else ""
    if found.method.dequantized and files and not any(kind not in _STORED for kind in _stored_kinds(files)):
        return (
            f"the configuration says that the checkpoint is quantised ({found}), but its files hold plain "
            f"weights: they are taken as they are, and held in {held}{hint}"
        )
    if found.method.dequantized:
        return f"the checkpoint is quantised ({found}{size}) and dequantised to {held}{hint}"
    return (
        f"the base is quantised ({found}{size}) and stays so; its other weights are in {_name(dtype)}. A "
        f"plan counts the memory of all its weights as {held}"
    )


def _own_dtype(config: Any) -> torch.dtype | None:
    own = getattr(config, "dtype", None)
    own = getattr(torch, own, None) if isinstance(own, str) else own
    return own if isinstance(own, torch.dtype) else None


def _first_dtype(job: ModelSettings) -> torch.dtype | None:
    """Return the dtype of the first floating-point tensor in the first file, as from_pretrained would."""
    locate = locator(resolve_model(job.model_name_or_path), job.model_revision)
    _, weight_map = find_weights(job.model_name_or_path, locate)
    name = min((weight_map or {}).values(), default=SINGLE)
    if (path := locate(name)) is None:
        raise ModelError(f"{job.model_name_or_path} lacks {name}: save or fetch the model again")
    return next((_STORED[kind] for kind in _stored_kinds([path]) if kind in _STORED), None)


def _stored_kinds(files: Iterable[Path]) -> Iterator[str]:
    """Yield the dtype of each tensor in these files, as safetensors calls it."""
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                yield from (file.get_slice(key).get_dtype() for key in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read ({error}): save or fetch the model again") from error


def _parameters(config: Any) -> int:
    model_class, text = causal_class(config)
    with torch.device("meta"):
        return sum(p.numel() for p in model_class._from_config(text).parameters())


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
