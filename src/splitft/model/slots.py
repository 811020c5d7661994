"""Adapter slots: the places of a model's LoRA modules, block by block.

peft injects the modules once; each party then binds its own tensors to them, so that any number of clients
and the server share one frozen base. A block's scaling is lora_alpha / lora_r whatever its effective rank,
or lora_alpha / sqrt(lora_r) with use_rslora.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from splitft.errors import ModelError
from splitft.lora.blocks import MAGNITUDE, Adapter, Layout, TensorSpec, tensor_name
from splitft.model.config import text_config
from splitft.model.window import find_blocks, install_window


class AdapterSlots:
    """The places of one model where adapters are bound.

    layout: describes the places; path: names the block list. config: the LoraConfig that was injected.
    targets: names of the modules with LoRA; excluded: modules outside blocks that share such a name.
    """

    def __init__(self, model: nn.Module, config: Any = None) -> None:
        from peft.tuners.lora import LoraLayer

        self.config = config
        self.start: Adapter = {}  # the part of the base weights that moved into new adapters
        self.targets = sorted(config.target_modules) if config else []
        self.excluded = sorted(config.exclude_modules or ()) if config else []

        window = install_window(model)
        self.path = next(name for name, module in model.named_modules() if module is window)
        self.layout: Layout = {}
        self.owners: dict[int, list[tuple[str, Any]]] = {}  # of each block: A, B and magnitudes in turn
        for index, block in enumerate(window._modules.values()):
            assert block is not None
            owners = [
                owner
                for name, layer in block.named_modules()
                if isinstance(layer, LoraLayer) and "default" in layer.lora_A  # peft's name of an adapter
                for owner in _owners(name, layer)
            ]
            if owners:
                self.layout[index] = tuple(TensorSpec(n, tuple(owner.weight.shape)) for n, owner in owners)
                self.owners[index] = owners

    def bind(self, adapter: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Make the model compute with these tensors (parameters, or plain tensors to evaluate)."""
        for index, block in adapter.items():
            for name, owner in self.owners[index]:
                tensor = block[name]
                vars(owner).pop("forward", None)  # in place of what `bind_rows` has left
                owner.weight = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)


def _owners(name: str, layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a LoRA layer: their names, and the modules whose weights they are."""
    for side in ("A", "B"):
        yield tensor_name(name, side), getattr(layer, f"lora_{side}")["default"]
    if layer.lora_magnitude_vector:  # DoRA
        yield name + MAGNITUDE, layer.lora_magnitude_vector["default"]


def peft_tensors(adapter: Mapping[int, Mapping[str, Tensor]], slots: AdapterSlots) -> dict[str, Tensor]:
    """Return an adapter as peft saves it: float32 on the CPU, under full names."""
    return {
        f"base_model.model.{slots.path}.{block}.{name}": tensor.detach().float().cpu().contiguous()
        for block, values in adapter.items()
        for name, tensor in values.items()
    }


def resolve_targets(model: Any, requested: str | list[str] | None) -> tuple[list[str], list[str]]:
    """Return (target module names, full names to exclude), so that LoRA sits inside blocks only.

    requested: names, "all-linear", or None for peft's choice for the model type (all-linear where it has
    none). Raises ModelError where nothing matches.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS
    from transformers.pytorch_utils import Conv1D

    # Linear layers inside blocks, and their names.
    _, _, blocks = find_blocks(model)
    inside = [(n, m) for n, m in blocks.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    names = list(dict.fromkeys(_short(name) for name, _ in inside))
    # The targets: peft's choice, all of them, or those that are asked for.
    config = text_config(model)
    if requested is None:
        default = DEFAULTS.get(config.model_type) or DEFAULTS.get(model.config.model_type)
        usual = default if isinstance(default, list) else []  # a few are patterns over whole paths
        targets = [name for name in usual if name in names] or names
    elif requested == "all-linear":
        targets = names
    else:
        targets = [requested] if isinstance(requested, str) else list(requested)
        missing = [target for target in targets if not any(is_called(n, [target]) for n, _ in inside)]
        if missing:
            raise ModelError(
                f"lora_target_modules: no linear layer of a block is called {', '.join(missing)}; "
                f"this model has {', '.join(names)}"
            )
    if not targets:
        raise ModelError(f"{config.model_type} has no linear layers inside its blocks for LoRA to adapt")
    # Layers outside blocks that peft would take for targets, too.
    held = {id(module) for _, module in inside}
    outside = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) not in held and is_called(name, targets)
    ]
    return targets, outside


def lora_config(
    targets: list[str],
    excluded: list[str],
    *,
    r: int,
    alpha: float,
    dropout: float,
    fan_in_fan_out: bool = False,
    blocks: Iterable[int] | None = None,
    use_rslora: bool = False,
    use_dora: bool = False,
) -> Any:
    """Return the peft LoraConfig. blocks: those with adapters; None: all."""
    from peft import LoraConfig

    return LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type,unused-ignore]
        lora_dropout=dropout,
        target_modules=targets,
        exclude_modules=excluded or None,
        fan_in_fan_out=fan_in_fan_out,
        layers_to_transform=None if blocks is None else list(blocks),
        use_rslora=use_rslora,
        use_dora=use_dora,
        task_type="CAUSAL_LM",
    )


def inject(model: Any, config: Any) -> AdapterSlots:
    """Freeze the model, inject LoRA modules of full rank into it, in place, and return its slots."""
    from peft import inject_adapter_in_model

    window, chosen = install_window(model), config.layers_to_transform
    path = next(name for name, module in model.named_modules() if module is window)
    names = [
        f"{path}.{index}.{name}"
        for index in (range(len(window)) if chosen is None else chosen)
        for name, _ in window._modules[str(index)].named_modules()
    ]
    model.requires_grad_(False)
    if any(is_called(name, config.target_modules) for name in names):  # peft refuses none
        inject_adapter_in_model(config, model)
    model.requires_grad_(False)
    model.train(model.training)  # new modules start in training mode, also in a model that evaluates
    return AdapterSlots(model, config)


def is_called(name: str, targets: Iterable[str]) -> bool:
    """Whether a module's full name ends in one of these names."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _short(name: str) -> str:
    """Return the last part of a module's name, with the one before where the last is a mere number."""
    parts = name.split(".")
    return ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])


def uses_fan_in_fan_out(model: nn.Module) -> bool:
    """Whether the model's linear layers are GPT-2's transposed Conv1D."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())
