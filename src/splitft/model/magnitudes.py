"""The magnitudes with which DoRA starts: the norms of the adapted weights, by peft's own code."""

from __future__ import annotations

from typing import Any

from splitft.lora.blocks import MAGNITUDE, Adapter, has_rank, module_of, tensor_name
from splitft.model.slots import AdapterSlots


def set_magnitudes(model: Any, slots: AdapterSlots, adapter: Adapter) -> None:
    """Give an adapter, in place, the magnitudes with which its A and B compute what LoRA's do.

    Nothing happens where the model is of shapes alone, or without DoRA.
    """
    for block, specs in slots.layout.items():
        for module in (module_of(spec.name) for spec in specs if not has_rank(spec.name)):
            layer = model.get_submodule(f"{slots.path}.{block}.{module}")
            base, dora, own = layer.get_base_layer(), layer.lora_magnitude_vector["default"], adapter[block]
            if base.weight.is_meta:
                return
            a, b = (own[tensor_name(module, side)].to(base.weight.device) for side in ("A", "B"))
            dora.update_layer(base_layer=base, lora_A=a, lora_B=b, scaling=layer.scaling["default"])
            own[module + MAGNITUDE] = dora.weight.detach().float().cpu()
