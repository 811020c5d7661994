"""What adapters leave of a front: the share of each layer's weights that they cancel, and their size.

A layer with weights W computes with W + D. Adapters with D = -W make it compute nothing: with all layers of a
front cancelled, its activations are the embeddings, and every token can be read. Both figures are per layer:
cancelled = -<W, D> / |W|², 1 where D = -W whatever is added beside it, and size = |D| / |W| (Frobenius).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splitft.lora.blocks import Adapter, module_of
from splitft.model.split_model import SplitModel


@dataclass(frozen=True)
class LayerChange:
    """The change of one layer by its adapter."""

    layer: str  # block and name
    cancelled: float
    size: float


@torch.no_grad()
def layer_changes(model: SplitModel, adapter: Adapter) -> Iterator[LayerChange]:
    """Yield the change of each layer that an adapter is bound to; adapters are left as they are bound last.

    Where adapters start as a part of the base, a change is counted from that start.
    """
    start = {block: model.slots.start[block] for block in adapter if block in model.slots.start}
    first: dict[str, Tensor] = {}
    if start:
        model.bind(start)
        first = dict(_effective(model, start))
    model.bind(adapter)
    for name, now in _effective(model, adapter):
        base = first[name] if name in first else _base(model, name)
        change, energy = now - base, float(base.square().sum())
        if energy:
            yield LayerChange(
                name,
                cancelled=-float((base * change).sum()) / energy,
                size=float(change.square().sum()) ** 0.5 / energy**0.5,
            )


def _effective(model: SplitModel, adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    """Yield each adapted layer's name and the weights that it computes with, in float32."""
    for block, tensors in adapter.items():
        for name in dict.fromkeys(f"{block}.{module_of(tensor)}" for tensor in tensors):
            layer = _layer(model, name)
            weights: Tensor = _base(model, name) + layer.get_delta_weight("default").float()
            if magnitudes := getattr(layer, "lora_magnitude_vector", None):
                axis = 0 if layer.fan_in_fan_out else 1
                length = weights.norm(dim=axis, keepdim=True)
                wanted = magnitudes["default"].weight.float().view_as(length)
                weights = weights * (wanted / length)
            yield name, weights


def _layer(model: SplitModel, name: str) -> Any:
    """Return peft's layer of a block."""
    return model.model.get_submodule(f"{model.slots.path}.{name}")


def _base(model: SplitModel, name: str) -> Tensor:
    """Return the base weights of a layer in float32."""
    from peft.tuners.lora.layer import ParamWrapper
    from peft.utils.integrations import dequantize_module_weight

    layer = _layer(model, name)
    if isinstance(layer, ParamWrapper):
        fused: Tensor = layer.get_param()
        return fused.float()
    base = layer.get_base_layer()
    plain = base.weight.is_floating_point() and type(base.weight.data) is Tensor
    held: Tensor = base.weight if plain else dequantize_module_weight(base)
    return held.float()
