"""A model's configuration, as far as it describes the decoder."""

from __future__ import annotations

from typing import Any

from torch import nn

from splitft.errors import ModelError


def text_config(model_or_config: Any) -> Any:
    """Return the configuration of the text decoder: of a model with several parts, that part's own."""
    config: Any = model_or_config.config if isinstance(model_or_config, nn.Module) else model_or_config
    return config.get_text_config(decoder=True)


def rope_border(config: Any) -> int | None:
    """Return the tokens of a row above which a whole batch takes another rotary table; None: none does.

    Longrope models (Phi-3 with 128k, MiniCPM) have a table for short and one for long rows, and the longest
    row of a batch decides for all: which rows share a batch then changes what is computed.
    """
    stated = getattr(text_config(config), "rope_parameters", None) or {}
    tables = [stated, *(value for value in stated.values() if isinstance(value, dict))]
    borders = [t["original_max_position_embeddings"] for t in tables if t.get("rope_type") == "longrope"]
    return min(borders, default=None)


def count_blocks(config: Any) -> int:
    """Return the number of decoder blocks that a configuration states. Raises ModelError where none is."""
    text = text_config(config)
    for name in ("decoder_layers", "num_decoder_layers", "num_layers", "num_hidden_layers"):
        count = getattr(text, name, None)
        if isinstance(count, int):
            return count
    raise ModelError(f"the configuration of model type {config.model_type!r} states no number of blocks")
