"""The trained half of a party: adapters of the blocks it holds, and their optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from splitft.common.state import State
from splitft.job.settings import OptimizerSettings, ScheduleSettings, TrainingSettings
from splitft.lora.basis import Basis
from splitft.lora.blocks import Adapter, BlockAdapter, is_a, rank_of, to_device, trained_tensors
from splitft.lora.client_optimizer import ADAMW, make_optimizer, restore_state, state_of, take_step
from splitft.lora.moments import Moments, rebase, resize_moments
from splitft.lora.objective import ObjectiveGradient

LearningRates = tuple[float, float]  # of A, and of B: the same without LoRA+


def learning_rates(settings: OptimizerSettings) -> Callable[[int], LearningRates]:
    """Return the learning rates as a function of the optimizer step (0-based, over all rounds).

    The schedules are transformers' own; with client sampling they follow the run, not the single client.
    """
    from transformers import get_scheduler

    total = settings.rounds * settings.local_steps
    warmup = settings.warmup_steps or math.ceil(total * settings.warmup_ratio)
    probe = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    schedule: Any = get_scheduler(settings.lr_scheduler_type, probe, warmup, total)
    factor = schedule.lr_lambdas[0]
    peak_a = settings.learning_rate
    peak_b = peak_a if settings.loraplus_lr_ratio is None else peak_a * settings.loraplus_lr_ratio
    return lambda step: (float(peak_a * factor(step)), float(peak_b * factor(step)))


def schedule_of_all_rounds(settings: OptimizerSettings) -> bool:
    """Whether the learning rate of a step depends on the number of rounds."""
    kind, by_share = settings.lr_scheduler_type, settings.warmup_ratio > 0 and not settings.warmup_steps
    return kind in ("linear", "cosine", "polynomial") or (kind != "constant" and by_share)


def global_step(schedule: ScheduleSettings, round_: int, step: int) -> int:
    """Return the optimizer step (0-based) of a local step of a round (1-based)."""
    return (round_ - 1) * schedule.local_steps + step


Weights = dict[int, dict[str, nn.Parameter]]  # by block and tensor
NO_GRADIENT = -1.0  # in the place of a norm


class TrainedAdapter:
    """Adapters that one party trains, with their optimizer state.

    AdamW's stays with each block, wherever that goes. Another optimizer's begins anew where a block changes
    hands, its rank or its basis.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self._settings = settings
        self.blocks: Weights = {}
        self._optimizers: dict[int, torch.optim.Optimizer] = {}
        self._moves = settings.optim in ADAMW  # optimizer state goes where its block goes
        self._objective = ObjectiveGradient(settings)
        self._start: Adapter = {}  # trained tensors as last loaded, where the objective reads them

    def load(
        self,
        adapter: Mapping[int, BlockAdapter],
        bases: Mapping[int, Sequence[Basis]] | None = None,
        moments: Mapping[int, Moments] | None = None,
    ) -> dict[int, Moments]:
        """Hold exactly these blocks, with these values. Return the moments of blocks given up.

        Moments stay with its block, through `bases` (changes of basis since the last load) and
        changes of rank; of a block that is new here it comes from `moments`.
        """
        given_up = {i: m for i in self.blocks if i not in adapter and (m := self.moments(i)) is not None}
        blocks: Weights = {}
        optimizers: dict[int, torch.optim.Optimizer] = {}
        for index in sorted(adapter):
            values, changes = adapter[index], (bases or {}).get(index, ())
            held, new = self.blocks.get(index), (moments or {}).get(index)
            if held is not None and not changes and new is None and rank_of(held) == rank_of(values):
                with torch.no_grad():
                    for name, tensor in values.items():
                        held[name].copy_(tensor)
                blocks[index], optimizers[index] = held, self._optimizers[index]
                continue
            state = new or (held and self.moments(index))
            trained = trained_tensors(values, self._settings.freeze_a)
            blocks[index] = {n: nn.Parameter(t.detach().clone(), n in trained) for n, t in values.items()}
            optimizers[index] = self._optimizer(blocks[index])
            if state and self._moves:
                for basis in changes:
                    state = rebase(state, basis)
                _restore(optimizers[index], blocks[index], resize_moments(state, rank_of(values)))
        self.blocks, self._optimizers = blocks, optimizers
        if not self._objective.is_zero:
            self._start = {i: {n: p.detach().clone() for n, p in self._trained(i).items()} for i in blocks}
        return given_up

    def state(self) -> State:
        """Return adapters and optimizer state as a checkpoint holds them."""
        moments = {block: self.moments(block) for block in self.blocks}
        kept = {block: None if known is None else dict(vars(known)) for block, known in moments.items()}
        state = {"blocks": self.values(), "moments": kept}
        if not self._moves:
            name, each = self._settings.optim, self._optimizers.items()
            state["optimizers"] = {block: state_of(name, own, self._trained(block)) for block, own in each}
        return state

    def load_state(self, state: State, device: torch.device) -> None:
        """Restore a state returned by `state()`."""
        known = {block: kept for block, kept in state["moments"].items() if kept is not None}
        moments = {b: Moments(**{**kept, "steps": tuple(kept["steps"])}) for b, kept in known.items()}
        self.load({})
        self.load(to_device(state["blocks"], device), moments=moments)
        for block, own in state.get("optimizers", {}).items():
            restore_state(self._optimizers[block], self._trained(block), own)

    def moments(self, index: int) -> Moments | None:
        """Return AdamW's moments of a block, None before its first step and with another optimizer."""
        if not self._moves:
            return None
        trained = self._trained(index)
        states = {name: self._optimizers[index].state.get(p) or {} for name, p in trained.items()}
        if not any(states.values()):
            return None
        steps = tuple(int(state["step"].item()) if state else 0 for state in states.values())

        def kept(key: str) -> BlockAdapter:
            return {n: states[n].get(key, torch.zeros_like(p)).detach().clone() for n, p in trained.items()}

        return Moments(steps, kept("exp_avg"), kept("exp_avg_sq"))

    def _optimizer(self, block: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        settings = self._settings
        one_rate = settings.loraplus_lr_ratio is None
        groups: dict[int, list[nn.Parameter]] = {0: [], 1: []}  # by the place of their learning rate
        for name, parameter in block.items():
            if parameter.requires_grad:
                groups[0 if one_rate or is_a(name) else 1].append(parameter)
        return make_optimizer(
            settings, [{"params": own, "rate": place} for place, own in groups.items() if own]
        )

    def _trained(self, index: int) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.blocks[index].items() if p.requires_grad}

    def parameters_of(self, index: int) -> list[nn.Parameter]:
        """The trained tensors of one block, in the model's order."""
        return list(self._trained(index).values())

    def parameters(self) -> list[nn.Parameter]:
        """All trained tensors, by block and in the model's order."""
        return [parameter for index in self.blocks for parameter in self.parameters_of(index)]

    def values(self) -> Adapter:
        """Return a copy of the adapters as they stand."""
        return {i: {n: p.detach().clone() for n, p in block.items()} for i, block in self.blocks.items()}

    def add_penalty(self) -> None:
        """Add the gradient of the objective's penalty, once a step: the loss's gradients are complete."""
        if not self._objective.is_zero:
            for index in self.blocks:
                self._objective.add(self._trained(index), self._start[index])

    def gradient_norms(self, blocks: Iterable[int] | None = None) -> Tensor:
        """Return the norm of each tensor's gradient, (tensors,) float32 on the CPU, in the model's order.

        NO_GRADIENT stands for a tensor that has none.
        """
        held = self.blocks if blocks is None else [i for i in blocks if i in self.blocks]
        norms = [
            p.new_tensor(NO_GRADIENT) if p.grad is None else torch.linalg.vector_norm(p.grad)
            for index in held
            for p in self.parameters_of(index)
        ]
        return torch.stack(norms).cpu() if norms else torch.zeros(0)

    def step(self, rates: LearningRates, total_norm: Tensor | None) -> None:
        """Clip by the norm over all parts of the model, step, and drop the gradients."""
        if total_norm is not None:
            most = self._settings.max_grad_norm
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), most, total_norm)
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rates[group["rate"]]
            take_step(self._settings, optimizer)
            optimizer.zero_grad(set_to_none=True)


def copied(trained: TrainedAdapter) -> Weights:
    """Return the adapters as they stand, in tensors of their own that gather gradients."""
    return {
        index: {n: nn.Parameter(p.detach().clone(), p.requires_grad) for n, p in block.items()}
        for index, block in trained.blocks.items()
    }


def move_gradients(source: Weights, trained: TrainedAdapter) -> None:
    """Move the gradients of copies to the trained tensors."""
    for index, block in trained.blocks.items():
        for name, parameter in block.items():
            parameter.grad, source[index][name].grad = source[index][name].grad, None


def _restore(optimizer: torch.optim.Optimizer, block: Mapping[str, nn.Parameter], moments: Moments) -> None:
    named = [(name, p) for name, p in block.items() if p.requires_grad]
    for (name, parameter), step in zip(named, moments.steps, strict=True):
        if step:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": moments.exp_avg[name].to(parameter).clone(),
                "exp_avg_sq": moments.exp_avg_sq[name].to(parameter).clone(),
            }


def total_norm(norms: Iterable[Tensor | None]) -> Tensor:
    """Return the norm of a whole gradient from the norms of its tensors, in the model's order."""
    parts = torch.cat([norm.cpu() for norm in norms if norm is not None and norm.numel()])
    return cast(Tensor, torch.linalg.vector_norm(parts[parts >= 0]))  # zeros in it would change the last bit
