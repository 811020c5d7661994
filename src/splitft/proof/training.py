"""A model as a job trains it: with adapters that change its function, in train mode, dropout repeatable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from splitft.common.seeds import seed_torch
from splitft.model.slots import AdapterSlots
from splitft.model.window import find_blocks, kept_modes
from splitft.proof.compare import Result, compared_parameters
from splitft.proof.harness import random_adapter


@contextmanager
def as_trained(model: Any, slots: AdapterSlots, seed: int) -> Iterator[None]:
    """Train with random adapters; a block draws the same dropout however often, and wherever, it is called.

    The adapters stay bound afterwards; modes are put back.
    """
    slots.bind(random_adapter(slots.layout, seed, model.device, trained=True))

    def reseed(number: int) -> Callable[..., None]:
        def hook(_module: Any, _args: Any) -> None:
            seed_torch(seed + number, model.device)

        return hook

    with ExitStack() as undone:
        for number, block in enumerate(find_blocks(model)[2]._modules.values()):
            assert block is not None
            undone.callback(block.register_forward_pre_hook(reseed(number + 1)).remove)
        undone.callback(model.register_forward_pre_hook(reseed(0)).remove)
        undone.enter_context(kept_modes(model))
        model.train()
        yield


def silent_blocks(model: Any, slots: AdapterSlots, whole: Result) -> str:
    """Say which blocks ran and gave none of their adapters a gradient: these would never train."""
    moved = {
        id(parameter)
        for parameter, gradient in zip(compared_parameters(model), whole.gradients, strict=True)
        if gradient is not None and bool(gradient.any())
    }
    silent = [
        str(block)
        for block, owners in slots.owners.items()
        if block in whole.ran and not any(id(owner.weight) in moved for _, owner in owners)
    ]
    return f"no adapter of block {', '.join(silent)} gets a gradient: they would not train" if silent else ""
