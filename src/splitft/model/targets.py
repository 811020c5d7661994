"""The layers that a job adapts, where names alone do not say which: patterns, blocks, exclusions.

Patterns are peft's: regular expressions that a layer's full name must match. The party that reads the job
resolves them to full names; clients of a network receive these names and match no pattern of a server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from splitft.errors import ModelError
from splitft.job.lora import LoraSettings
from splitft.model.slots import is_called
from splitft.model.window import block_path, find_blocks

Names = str | list[str] | None


def is_pattern(text: str) -> bool:
    """Whether a text is a regular expression, and no plain name."""
    return not re.fullmatch(r"[\w.-]+", text)


def may_name_block(name: str) -> bool:
    """Whether a target may choose among the blocks: a pattern, or a name with a number in it."""
    return is_pattern(name) or re.search(r"(^|\.)\d+\.", name) is not None


def names_in_blocks(model: Any, requested: Names) -> Names:
    """Return requested targets without patterns and full names: names within a block in their place.

    Raises ModelError where a pattern matches no linear layer of a block.
    """
    layers = list(block_layers(model))
    if isinstance(requested, str) and is_pattern(requested):
        found = [within for full, _, within in layers if re.fullmatch(requested, full)]
        if not found:
            example = layers[0][0] if layers else "none"
            raise ModelError(
                f"lora_target_modules: no linear layer of a block matches {requested!r}, which must fit a "
                f"full name such as {example}"
            )
        return list(dict.fromkeys(found))
    given = [requested] if isinstance(requested, str) else requested or []
    if not any(_with_block(layers, name) for name in given):
        return requested
    names = [_with_block(layers, name) or [name] for name in given]
    return list(dict.fromkeys(within for each in names for within in each))


def narrowed(
    model: Any, settings: LoraSettings, frozen_blocks: int, names: Sequence[str], excluded: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """Return (targets, full names to exclude) that leave out all layers that the job does not choose.

    Where names say all, they stay as they are; else the targets are full names. Raises ModelError where no
    layer is left.

    Args:
        frozen_blocks: Blocks without an adapter, from the first on.
        names, excluded: Targets by name, as `resolve_targets` gives them.
    """
    requested, blocks = settings.lora_target_modules, settings.layers_to_transform
    stated = [requested] if isinstance(requested, str) else requested or []
    layers = list(block_layers(model))
    whole = any(is_pattern(name) or _with_block(layers, name) for name in stated)
    if not whole and blocks is None and not settings.exclude_modules:
        return names, excluded
    # Blocks, counted from 0.
    count = len(find_blocks(model)[2])
    chosen = range(count) if blocks is None else [blocks] if isinstance(blocks, int) else blocks
    if wrong := [index for index in chosen if index >= count]:
        raise ModelError(
            f"layers_to_transform: the model's blocks are 0 to {count - 1}; it has no block "
            f"{', '.join(map(str, wrong))}"
        )
    # Layers: those that are asked for and that LoRA can adapt, in these blocks, less the excluded ones.
    kept = [
        full
        for full, block, within in layers
        if block in chosen
        and block >= frozen_blocks
        and matches(within, list(names))
        and (not whole or matches(full, requested))
        and not (settings.exclude_modules and matches(full, settings.exclude_modules))
    ]
    if not kept:
        without = ", train_front" if frozen_blocks else ""
        raise ModelError(
            f"lora_target_modules, layers_to_transform, exclude_modules{without} leave no layer with an "
            "adapter: choose fewer exclusions or more blocks"
        )
    return kept, ()


def _with_block(layers: Sequence[tuple[str, int, str]], name: str) -> list[str]:
    """Return the layers, by their names within a block, that a name with the block in it chooses."""
    return [w for full, _, w in layers if matches(full, [name]) and not matches(w, [name])]


def matches(name: str, wanted: Names) -> bool:
    """Whether a module's full name matches a pattern, or ends in one of these names."""
    if isinstance(wanted, str) and is_pattern(wanted):
        return re.fullmatch(wanted, name) is not None
    return is_called(name, [wanted] if isinstance(wanted, str) else wanted or [])


def block_layers(model: Any) -> Iterator[tuple[str, int, str]]:
    """Yield (full name, index of the block, name within the block) of each linear layer of a block."""
    from transformers.pytorch_utils import Conv1D

    path = block_path(model)
    for index, block in find_blocks(model)[2]._modules.items():
        assert block is not None
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear | Conv1D):
                yield f"{path}.{index}.{name}", int(index), name
