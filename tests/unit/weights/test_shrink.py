"""Promises of small random copies of an architecture: what they keep, and that they are reproducible."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING

from cases import rest_slow
from splitft.proof.every_type import default_config
from splitft.proof.split import check_split
from splitft.weights.shrink import shrink_config, tiny_random_model
from tiny import tiny_config


def test_a_shrunk_copy_keeps_what_makes_the_architecture() -> None:
    config = CONFIG_MAPPING["gemma3_text"](num_attention_heads=16, num_key_value_heads=4)
    small = shrink_config(config)
    assert config.num_hidden_layers == 26  # the original is left alone
    assert small.num_hidden_layers == 6 and set(small.layer_types) == set(config.layer_types)
    assert small.num_key_value_heads < small.num_attention_heads
    assert small.sliding_window < 12 and small.vocab_size < 200
    assert sum(p.numel() for p in tiny_random_model(small).parameters()) < 1_000_000


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("phi3", {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}),
        ("qwen2", {"rope_type": "default", "mrope_section": [16, 24, 24]}),
        ("deepseek_v3", {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}),
    ],
)
def test_long_context_and_quantized_configurations_shrink(model_type: str, settings: dict[str, Any]) -> None:
    more = {"original_max_position_embeddings": 4096} if model_type == "phi3" else {}
    config = CONFIG_MAPPING[model_type](rope_parameters={"rope_theta": 1e4, **settings}, **more)
    config.quantization_config = {"quant_method": "fp8"}
    assert shrink_config(config).rope_parameters["rope_type"] == settings["rope_type"]
    assert check_split(config, [2]).verdict == "exact"


def test_a_copy_never_has_more_blocks_than_the_model() -> None:
    assert shrink_config(tiny_config("llama", num_hidden_layers=2)).num_hidden_layers == 2


def test_random_models_are_reproducible_and_visible() -> None:
    small = shrink_config(default_config("llama"))
    one, same, other = (tiny_random_model(small, seed) for seed in (0, 0, 1))
    for a, b, c in zip(one.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c) and a.std() > 0.05


_FACTORS = [1.0, 1.5, 2.0, 2.5]


@pytest.mark.parametrize(
    ("model_type", "settings"),
    rest_slow([
        ("llama", {"num_attention_heads": 1, "num_key_value_heads": 1}),
        ("llama", {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16}),
        (
            "phi3",
            {"original_max_position_embeddings": 16, "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16,
                "short_factor": _FACTORS, "long_factor": _FACTORS,
            }},
        ),
        ("falcon_h1", {"hidden_size": 48, "head_dim": 8, "mamba_d_ssm": 1024, "mamba_n_heads": 32}),
    ], 1),
    ids=["one head", "one small head", "longrope with small heads", "mamba wider than the hidden states"],
)  # fmt: skip
def test_unusual_heads_shrink(model_type: str, settings: dict[str, Any]) -> None:
    """Each model runs, and no small copy of it could be built."""
    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 320, "pad_token_id": 1, "max_position_embeddings": 64,
    }  # fmt: skip
    config = CONFIG_MAPPING[model_type](**{**sizes, **settings})
    tiny_random_model(config)(input_ids=torch.arange(3, 9)[None], use_cache=False)
    small = shrink_config(config)
    assert (
        small.num_hidden_layers == 4 and sum(p.numel() for p in tiny_random_model(small).parameters()) < 2e6
    )
    report = check_split(config)
    assert report.verdict == "exact", report.reason
