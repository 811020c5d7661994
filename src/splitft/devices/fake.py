"""A model on tensors without values: PyTorch's fake tensors, which have shapes and storages but no data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from splitft.model.window import call_model


class Call(nn.Module):
    """The model, called as `call_model` calls it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        return call_model(self.model, **inputs)


def fake_weights(model: nn.Module) -> dict[str, Tensor]:
    """Fake tensors for all parameters and buffers: adapters in float32 and trained, as a run binds them."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    fakes: dict[int, Tensor] = {}  # tied weights stay tied
    weights = {}
    for name, real in named:
        if id(real) not in fakes:
            trained = ".lora_" in name
            dtype = torch.float32 if trained else real.dtype
            fakes[id(real)] = torch.empty(real.shape, dtype=dtype).requires_grad_(trained)
        weights[f"model.{name}"] = fakes[id(real)]
    return weights


@contextmanager
def training_without_checkpoints(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    recomputing: list[Any] = [
        m for m in model.modules() if getattr(m, "gradient_checkpointing", None) is True
    ]
    try:
        model.train()
        for module in recomputing:
            module.gradient_checkpointing = False
        yield
    finally:
        for module in recomputing:
            module.gradient_checkpointing = True
        for module, training in modes:
            module.training = training


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """torch logs a forward that cannot be traced as an error; here it is an answer."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
