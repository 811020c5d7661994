"""The trained half of a party: adapters of the blocks it holds, and AdamW over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from splitft.adapters import Adapter, BlockAdapter
from splitft.job import Job


def learning_rates(job: Job) -> Callable[[int], float]:
    """Return the learning rate as a function of the optimizer step (0-based, over all rounds).

    The schedules are transformers' own; with client sampling they follow the run, not the single client.
    """
    from transformers import get_scheduler

    total = job.rounds * job.local_steps
    warmup = job.warmup_steps or math.ceil(total * job.warmup_ratio)
    probe = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=job.learning_rate)
    schedule: Any = get_scheduler(job.lr_scheduler_type, probe, warmup, total)
    factor = schedule.lr_lambdas[0]
    return lambda step: float(job.learning_rate * factor(step))


def global_step(job: Job, round_: int, step: int) -> int:
    """Return the optimizer step (0-based) of a local step of a round (1-based)."""
    return (round_ - 1) * job.local_steps + step


class TrainedAdapter:
    """Adapters that one party trains, with their optimizer state, which stays with each block."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.blocks: dict[int, dict[str, nn.Parameter]] = {}
        self.moments: dict[int, torch.optim.AdamW] = {}

    def load(self, adapter: Mapping[int, BlockAdapter], *, forget: Iterable[int] = ()) -> None:
        """Take over values; optimizer state stays, except of blocks in `forget` or of a new rank."""
        for index in sorted(adapter):
            values = adapter[index]
            held = self.blocks.get(index)
            if held is not None and all(held[name].shape == t.shape for name, t in values.items()):
                with torch.no_grad():
                    for name, tensor in values.items():
                        held[name].copy_(tensor)
                if index in forget:
                    self.moments[index].state.clear()
            else:
                self.blocks[index] = {name: nn.Parameter(t.detach().clone()) for name, t in values.items()}
                self.moments[index] = self._optimizer(self.blocks[index].values())
        self.blocks = dict(sorted(self.blocks.items()))

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        job = self.job
        return torch.optim.AdamW(
            list(parameters),
            lr=job.learning_rate,
            betas=(job.adam_beta1, job.adam_beta2),
            eps=job.adam_epsilon,
            weight_decay=job.weight_decay,
            fused=True,
        )

    def parameters(self) -> list[nn.Parameter]:
        """All trained tensors, by block and in the model's order."""
        return [parameter for block in self.blocks.values() for parameter in block.values()]

    def values(self) -> Adapter:
        """Return a copy of the adapters as they stand."""
        return {i: {n: p.detach().clone() for n, p in block.items()} for i, block in self.blocks.items()}

    def gradient_norms(self, blocks: Iterable[int] | None = None) -> Tensor:
        """Return the norm of each tensor's gradient, (tensors,) float32 on the CPU, in the model's order."""
        held = self.blocks if blocks is None else {i: self.blocks[i] for i in blocks if i in self.blocks}
        norms = [
            p.new_zeros(()) if p.grad is None else torch.linalg.vector_norm(p.grad)
            for block in held.values()
            for p in block.values()
        ]
        return torch.stack(norms).cpu() if norms else torch.zeros(0)

    def step(self, learning_rate: float, total_norm: Tensor | None) -> None:
        """Clip by the norm over all parts of the model, step, and drop the gradients."""
        if total_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), self.job.max_grad_norm, total_norm)
        for optimizer in self.moments.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def total_norm(norms: Iterable[Tensor | None]) -> Tensor:
    """Return the norm of a whole gradient from the norms of its tensors, in the model's order."""
    parts = torch.cat([norm.cpu() for norm in norms if norm is not None and norm.numel()])
    return cast(Tensor, torch.linalg.vector_norm(parts))
