"""Shrink a configuration to a copy that builds in milliseconds and keeps its kinds of blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from splitft.common.text import one_line
from splitft.errors import ModelError
from splitft.model.config import text_config
from splitft.weights.shrink_rules import GUESSES, Guess, shrink_values

_NOT_SIZES = (
    "model_type",
    "architectures",
    "transformers_version",
    "dtype",
    "_name_or_path",
    "auto_map",
    "quantization_config",
)
MAX_PARAMETERS = 8_000_000  # a larger copy was not shrunk: refused before it takes memory


class NotBuiltError(ModelError):
    """No small copy of a configuration can be built, so nothing is known about its split."""


def causal_class(config: PreTrainedConfig) -> tuple[Any, PreTrainedConfig]:
    """The causal-LM class of a configuration, and the part of the configuration that it is built from.

    A composite configuration whose causal class is its text model's gives its text part.
    Raises ModelError where the installed transformers has no causal LM for it.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"model type {config.model_type!r} has no causal language model in the installed transformers: "
            "choose a causal LM (`splitft check --all-architectures` lists them) or update transformers."
        )
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    for name in config.sub_configs:
        if type(getattr(config, name, None)) is model_class.config_class:
            return model_class, getattr(config, name)
    return model_class, config


def shrink_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A small copy of `config`: at least 4 blocks where it has as many, with every kind of block it has.

    Several guesses are tried until a model builds and runs. Raises NotBuiltError with the first guess's
    failure where none does.
    """
    first: Exception | None = None
    for guess in GUESSES:
        try:
            small = type(config)(**_shrunk_values(config, guess))
            _run(tiny_random_model(small))
            return small
        except Exception as error:  # whatever a foreign configuration or model may raise
            first = first or error
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
        torch.manual_seed(seed)
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
