"""Shrink a configuration to a copy that builds in milliseconds and keeps its kinds of blocks."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from splitft.common.seeds import seed_torch
from splitft.common.text import one_line
from splitft.errors import ModelError
from splitft.model.config import text_config
from splitft.weights.kinds import causal_class, sees_images
from splitft.weights.shrink_rules import GUESSES, Guess, hidden_size, shrink_values

_NOT_SIZES = (
    "model_type",
    "architectures",
    "transformers_version",
    "dtype",
    "_name_or_path",
    "auto_map",
    "quantization_config",
)
_IMAGES = "pixel_values|image_embeds|flattened_patches"  # in the error of a model that runs on images alone
MAX_PARAMETERS = 10_000_000  # a larger copy was not shrunk: refused before it takes memory


class NotBuiltError(ModelError):
    """No small copy of a configuration can be built, so nothing is known about its split."""


def shrink_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A small copy of `config`: at least 4 blocks where it has as many, with every kind of block it has.

    Several guesses are tried until a model builds and runs. Raises NotBuiltError with the first guess's
    failure where none does, and ModelError where the model is no next-token model, or needs images.
    """
    causal_class(config)
    first: Exception | None = None
    hidden = hidden_size(text_config(config).to_dict()) if config.sub_configs else 0
    for guess in GUESSES:
        try:
            small = type(config)(**_shrunk_values(config, replace(guess, original_hidden=hidden)))
            _run(tiny_random_model(small))
            return small
        except Exception as error:  # whatever a foreign configuration or model may raise
            first = first or error
    if sees_images(config) and re.search(_IMAGES, str(first)):
        raise ModelError(
            f"model type {config.model_type!r} needs an image with every text ({one_line(first)}), and "
            "SplitFT trains on text alone: choose another model"
        )
    raise NotBuiltError(
        f"no small copy of model type {config.model_type!r} could be built ({one_line(first)}), so nothing "
        "is proven. Check the loaded model itself instead: check_split(model, cuts)."
    )


def _shrunk_values(config: PreTrainedConfig, guess: Guess) -> dict[str, Any]:
    nested: dict[str, Any] = {name: getattr(config, name, None) for name in config.sub_configs}
    nested = {name: inner for name, inner in nested.items() if isinstance(inner, PreTrainedConfig)}
    values = {k: v for k, v in config.to_dict().items() if k not in nested and k not in _NOT_SIZES}
    out = shrink_values(values, guess)
    for name, inner in nested.items():
        out[name] = {**_shrunk_values(inner, guess), "model_type": inner.model_type}
    return out


def tiny_random_model(config: PreTrainedConfig, seed: int = 0, scale: float = 0.2) -> Any:
    """A float32 causal LM of a small `config` whose every weight matters, in eval mode.

    Matrices are N(0, scale), vectors get N(0, 0.1) on top of their initial value, and integer tables (such as
    a map from token to expert) are filled at random: values near zero would hide what a split drops.
    Raises ModelError where the configuration is not small. The caller's random state is left as it was.
    """
    model_class, config = causal_class(config)
    with torch.device("meta"):
        size = sum(p.numel() for p in model_class._from_config(config).parameters())
    if size > MAX_PARAMETERS:
        raise ModelError(
            f"the copy still has {size:,} parameters: shrink_config does not know this type's sizes"
        )
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed)
        model = model_class._from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(scale * noise)
            else:
                parameter.copy_(torch.nan_to_num(parameter).clamp(-10, 10) + 0.1 * noise)
        _fill_tables(model, generator)
    return model.float().eval()


def _fill_tables(model: nn.Module, generator: torch.Generator) -> None:
    """Fill buffers with one entry a token id: zeros, as they start, would hide that a block reads ids."""
    text = text_config(model)
    names = ("n_routed_experts", "num_experts", "num_local_experts")
    choices = next((getattr(text, n) for n in names if isinstance(getattr(text, n, None), int)), 2)
    for buffer in model.buffers():
        if buffer.ndim and buffer.shape[0] == text.vocab_size:
            if buffer.is_floating_point():
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            else:
                buffer.copy_(torch.randint(choices, buffer.shape, generator=generator))


def _run(model: Any) -> None:
    with torch.no_grad():
        logits = model(input_ids=torch.arange(3, 9)[None], use_cache=False).logits
    if not torch.isfinite(logits).any():
        raise ModelError("the small copy answers no finite number")
