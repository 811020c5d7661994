"""Costs of a model, measured from its modules and a forward pass without values."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from splitft.devices.costs import BlockCosts, ModelCosts
from splitft.devices.matrices import attention_modules, attention_width, matrices_of
from splitft.devices.probe import OUTSIDE, SHARED, Probe, probe_model
from splitft.errors import ModelError
from splitft.lora.blocks import has_rank, tensor_name
from splitft.model.config import text_config
from splitft.model.slots import AdapterSlots
from splitft.model.window import find_blocks

_UPPER = 1.5  # bytes kept per byte of a matrix's inputs and outputs, where a model cannot be traced


def model_costs(model: nn.Module) -> ModelCosts:
    """Return the costs of a causal LM with LoRA injected (`model.slots.inject`).

    Nothing is computed, and the model, which may be on the meta device, is left as it was. Not counted are
    norms, activation functions, softmax and state-space scans: whatever is no matrix product.
    """
    layout = AdapterSlots(model).layout
    _, _, found = find_blocks(model)
    blocks = [block for block in found._modules.values() if block is not None]
    matrices = [matrices_of(block, model.config) for block in blocks]
    probe = probe_model(model, matrices)
    element_bytes = next(p for name, p in model.named_parameters() if ".lora_" not in name).element_size()
    costs = []
    for index, (block, own) in enumerate(zip(blocks, matrices, strict=True)):
        silent = [m for m in own if (index, m.owner) in probe.silent]
        silent_inputs = {tensor_name(m.owner, "A") for m in silent}  # A is trained, but hands nothing on
        sizes = {spec.name: math.prod(spec.at_rank(1)) for spec in layout.get(index, ())}
        units = {name: size for name, size in sizes.items() if has_rank(name)}
        attention = attention_modules(block)
        attending = [m for m in own if any(m.owner.startswith(f"{path}.") for path in attention)]
        if probe.traced:
            kept, kept_per_width = probe.activation_bytes(index)
        else:
            kept, kept_per_width = _UPPER * element_bytes * sum(m.features for m in own), 0.0
        costs.append(
            BlockCosts(
                parameters=round(sum(m.parameters for m in own)),
                weight_bytes=sum(p.nbytes for name, p in block.named_parameters() if ".lora_" not in name),
                lora_parameters=sum(units.values()),
                attention_width=attention_width(model.config) if attention else 0,
                silent_parameters=round(sum(m.parameters for m in silent)),
                silent_lora_parameters=sum(units.get(name, 0) for name in silent_inputs),
                silent_attention=bool(attending) and all(m in silent for m in attending),
                activation_bytes=kept,
                activation_bytes_per_width=kept_per_width,
                magnitudes=sum(sizes.values()) - sum(units.values()),
            )
        )
    return _whole(model, found, tuple(costs), probe, element_bytes)


def _whole(
    model: nn.Module, blocks: nn.Module, costs: tuple[BlockCosts, ...], probe: Probe, element_bytes: int
) -> ModelCosts:
    shared = probe.activation_bytes(SHARED) if probe.traced else (0.0, float(element_bytes))
    inside = {id(p) for p in blocks.parameters()}
    outside = {id(p): p for p in model.parameters() if id(p) not in inside}
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    embedding = {id(p): p.nbytes for m in tables for p in m.parameters() if id(p) in outside}
    output: Any = model.get_output_embeddings()  # type: ignore[operator]
    if output is None:
        raise ModelError(f"{type(model).__name__} has no output head: its costs are not known, nor is a plan")
    head = output.weight
    tied = head.nbytes if id(head) in embedding else 0
    rest = sum(p.nbytes for key, p in outside.items() if key not in embedding)
    vocabulary, hidden = head.shape
    size = getattr(text_config(model), "hidden_size", None)
    return ModelCosts(
        blocks=costs,
        hidden=size if isinstance(size, int) else hidden,
        vocabulary=vocabulary,
        element_bytes=element_bytes,
        embedding_bytes=sum(embedding.values()),
        head_bytes=rest + tied,
        tied_bytes=tied,
        head_parameters=head.numel(),
        shared_activation_bytes=shared[0],
        shared_activation_bytes_per_width=shared[1],
        head_activation_bytes=probe.activation_bytes(OUTSIDE)[0] if probe.traced else 8.0 * hidden,
        traced=probe.traced,
    )
