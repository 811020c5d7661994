"""A class that holds a part of a model, and the patterns of keys that it ignores in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from splitft.weights.partial import drop_parts, partial_class
from tiny import save_tiny_model, tiny_model


@pytest.mark.parametrize("patterns", [["rotary"], {"rotary"}, set(), None])
def test_patterns_of_ignored_keys_keep_their_kind(patterns: Any, tmp_path: Path) -> None:
    """transformers adds patterns of its own: to a list before 5.9, to a set from then on."""
    model = tiny_model("llama")
    model._keys_to_ignore_on_load_unexpected = patterns
    drop_parts(model, {0}, head=False)
    found = model._keys_to_ignore_on_load_unexpected
    assert list(found) == [".*"] and isinstance(found, list if patterns is None else type(patterns))
    kind = type("Ignoring", (LlamaForCausalLM,), {"_keys_to_ignore_on_load_unexpected": patterns})
    part = partial_class(kind, {1, 2}, head=False).from_pretrained(save_tiny_model(tmp_path, "llama"))
    assert part.num_parameters() < tiny_model("llama").num_parameters()
