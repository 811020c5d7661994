"""Reach: how far the local steps of one round can move an adapter, whatever the data; pure functions.

The bounds follow from the optimizer's own arithmetic, so that no honest client, however odd its data, can be
beyond them; a value that is beyond them was not made by the job's steps.

| optim | bound of one step, for each unit of learning rate |
|---|---|
| adamw_torch, adamw_torch_fused | every value: sup |m| / √v (Cauchy-Schwarz); 7.3 by default |
| adagrad | every value: 1 |
| rmsprop, not centered | every value: 1 / √(1 - alpha), over 1 - momentum |
| adafactor without beta1 | root mean square of a tensor: its clip_threshold, 1 by default |
| sgd with max_grad_norm, without dp | norm of the whole update: max_grad_norm, over 1 - momentum |
| others | none |

Weight decay adds to them what it takes from the values. Where ranks differ (`lora_r_cut`), AdamW's moments go
through changes of basis, each of which lets |m| / √v grow by the root of the rank at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import BlockAdapter, is_a, rank_of
from splitft.lora.client_optimizer import ADAMW, optim_arguments
from splitft.lora.moments import Moments
from splitft.lora.optimizer import global_step, learning_rates

MARGIN = 2.0  # times the bound
ROUNDING = 1e-6  # of a value's size, for each step in float32
UNDERFLOW = 1e-18  # a mean of gradients below it may have a mean of squares of zero in float32

Of = Literal["value", "tensor", "update"]  # what a bound is of: each value, a tensor's RMS, the whole norm


@dataclass(frozen=True)
class Reach:
    """The most that one round's steps change.

    of: What the bound is of.
    sizes: For A, and for the other tensors.
    decay: The same, as shares of what was handed out: weight decay, and rounding.
    """

    of: Of
    sizes: tuple[float, float]
    decay: tuple[float, float]

    def beyond(self, start: Mapping[int, BlockAdapter], trained: Mapping[int, BlockAdapter]) -> str:
        """Return which tensor is beyond the bound, and by how much; empty: none.

        Args:
            start: Blocks as they were handed out, with the ranks of `trained`.
            trained: The trained tensors of these blocks.
        """
        moved, allowed = [], []
        for block, tensors in trained.items():
            for name, tensor in tensors.items():
                place = 0 if is_a(name) else 1
                before = start[block][name].detach().cpu().double()  # some accelerators have no float64
                change, limit = (tensor.to(before) - before).abs(), self.decay[place] * before.abs()
                if self.of == "update":
                    moved.append(change.norm())
                    allowed.append(limit.norm())
                    continue
                if self.of == "tensor":
                    change, limit = change.square().mean().sqrt(), limit.square().mean().sqrt()
                limit = limit + self.sizes[place]
                if bool((far := change > limit).any()):
                    times = float((change[far] / limit[far]).max())
                    return f"block {block}, {name}: {times:.3g} times as far"
        if moved:
            length = float(torch.stack(moved).norm())
            most = max(self.sizes) + float(torch.stack(allowed).norm())
            if length > most:
                return f"the whole update: {length / most:.3g} times as far"
        return ""

    def most(self, start: Mapping[int, BlockAdapter]) -> dict[int, BlockAdapter]:
        """Return how far steps move each tensor at most: of each value, else the norm of its change, ().

        start: Blocks as they were handed out. A's may be frozen.
        """
        limits: dict[int, BlockAdapter] = {}
        for block, tensors in start.items():
            limits[block] = {}
            for name, tensor in tensors.items():
                place = 0 if is_a(name) else 1
                limit = self.decay[place] * tensor.detach().cpu().double().abs()
                if self.of == "tensor":
                    root = limit.numel() ** 0.5
                    limit = limit.norm() + self.sizes[place] * root
                elif self.of == "value":
                    limit = limit + self.sizes[place]
                else:
                    limit = limit.norm()
                limits[block][name] = limit
        if self.of != "update":
            return limits
        every = [limit for block in limits.values() for limit in block.values()]
        whole = torch.stack(every).norm() + max(self.sizes)
        return {block: dict.fromkeys(tensors, whole) for block, tensors in limits.items()}


def reach_of_rounds(settings: TrainingSettings) -> Callable[[int], Reach | None]:
    """Return a function from a round (1-based) to its reach; None: the optimizer has no bound."""
    step = step_bound(settings)
    if step is None:
        return lambda round_: None
    of, size = step
    rates, by_size = learning_rates(settings), settings.optim in (*ADAMW, "adafactor", "sgd")
    decays = settings.weight_decay if by_size else 0.0  # else it is part of the gradient, and of its bound

    def reach(round_: int) -> Reach:
        places = [rates(global_step(settings, round_, step)) for step in range(settings.local_steps)]
        sizes, shares = [], []
        for each in zip(*places, strict=True):
            total, scale = sum(map(abs, each)), size / settings.max_grad_norm if of == "update" else 1.0
            grown = math.prod(1 + abs(rate) * decays * scale for rate in each)  # by a decay of the wrong sign
            sizes.append(MARGIN * total * size * grown)
            shares.append(MARGIN * total * decays * scale * grown + ROUNDING * (settings.local_steps + 1))
        return Reach(of, (sizes[0], sizes[1]), (shares[0], shares[1]))

    return reach


def step_bound(settings: TrainingSettings) -> tuple[Of, float] | None:
    """Return what one step changes at most at a learning rate of 1, without weight decay; None: no bound."""
    args = optim_arguments(settings.optim_args)
    still = 1 - float(args.get("momentum") or 0.0)
    match settings.optim:
        case "adamw_torch" | "adamw_torch_fused":
            # Corrections of bias multiply it most at the first step, or by 1 in the long run.
            first = math.sqrt(1 - settings.adam_beta2) / (1 - settings.adam_beta1)
            turned = math.sqrt(settings.lora_r) if settings.lora_r_cut not in (None, settings.lora_r) else 1
            return "value", most_moments(settings) * max(first, 1.0) * turned
        case "adagrad":
            return "value", 1.0
        case "rmsprop" if still > 0 and not args.get("centered"):
            kept = 1 - float(args.get("alpha", 0.99))
            return ("value", 1 / math.sqrt(kept) / still) if kept > 0 else None
        case "adafactor" if not args.get("beta1"):
            return "tensor", float(args.get("clip_threshold", 1.0))
        case "sgd" if (
            still > 0 and settings.max_grad_norm and not args.get("maximize") and not settings.dp.active
        ):
            return "update", settings.max_grad_norm / still  # with dp the noise is longer
        case _:
            return None


def most_moments(settings: TrainingSettings) -> float:
    """Return the most that |m| / √v of AdamW can be, m and v without correction of their bias."""
    beta1, beta2 = settings.adam_beta1, settings.adam_beta2
    ratio, steps = beta1**2 / beta2 if beta2 else math.inf, settings.rounds * settings.local_steps
    if ratio == 1:
        total = float(steps)
    elif ratio > 1 and steps * math.log(ratio) > 600:
        total = math.inf
    else:
        total = (1 - ratio**steps) / (1 - ratio)
    return (1 - beta1) / math.sqrt(1 - beta2) * math.sqrt(total)


def squares_beyond(settings: TrainingSettings, squares: Iterable[Tensor]) -> bool:
    """Whether AdamW's means of squared gradients, of blocks that one party trained, are too large.

    A step's gradient has a norm of max_grad_norm at most: all these means add up to its square at most.
    Without clipping there is no bound; nor where ranks differ (`lora_r_cut`), and bases change.
    """
    if not settings.max_grad_norm or settings.lora_r_cut not in (None, settings.lora_r):
        return False
    total = sum(float(square.double().sum()) for square in squares)
    return total > (MARGIN * settings.max_grad_norm) ** 2


def moments_beyond(settings: TrainingSettings, mean: Tensor, square: Tensor, rank: int) -> bool:
    """Whether AdamW's state is none that its steps make.

    rank: Of the adapter. A change of its basis lets |m| / √v grow by its root at most; the margin is its root
        again.
    """
    most = MARGIN * most_moments(settings) * rank
    return bool((mean.abs().double() > most * square.double().clamp(min=0).sqrt() + UNDERFLOW).any())


def check_moments(settings: TrainingSettings, moments: Moments) -> None:
    """Raise ValueError where a block's optimizer state is none that the run's steps make."""
    if settings.optim not in ADAMW:
        raise ValueError(f"moved: the state of optimizer {settings.optim} stays where it is")
    most = settings.rounds * settings.local_steps
    if max(moments.steps, default=0) > most:
        raise ValueError(f"moved_steps: more than the {most} steps of the run")
    if any(float(square.min()) < 0 for square in moments.exp_avg_sq.values()):
        raise ValueError("moments: a mean of squares is negative")
    if squares_beyond(settings, moments.exp_avg_sq.values()):
        raise ValueError("moments: means of squares beyond max_grad_norm")
    rank = rank_of(moments.exp_avg)
    for mean, square in zip(moments.exp_avg.values(), moments.exp_avg_sq.values(), strict=True):
        if moments_beyond(settings, mean, square, rank):
            raise ValueError("moments: a mean is beyond what goes with its mean of squares")
