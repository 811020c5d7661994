"""Aggregation rules and robust rules by name, and the contract of a user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import torch

from splitft.common.registry import Registry
from splitft.common.text import error_line
from splitft.errors import JobError
from splitft.lora.blocks import BlockAdapter, rank_of, resize
from splitft.lora.means import Mean, average, by_rank, exact, freeze_a
from splitft.lora.robust import coordinate_median, krum, trimmed_mean

RobustRule = Callable[[Sequence[BlockAdapter], int], BlockAdapter]

AGGREGATIONS: Registry[Mean] = Registry(
    "aggregation rule",
    "register_aggregation",
    {"by_rank": by_rank, "average": average, "exact": exact, "freeze_a": freeze_a},
)
ROBUST_RULES: Registry[RobustRule] = Registry(
    "robust rule",
    "register_robust_rule",
    {"median": coordinate_median, "trimmed_mean": trimmed_mean, "krum": krum},
    ["none", "norm_clip"],
)


@overload
def register_aggregation(name: str, function: Mean) -> Mean: ...
@overload
def register_aggregation(name: str, function: None = None) -> Callable[[Mean], Mean]: ...
def register_aggregation(name: str, function: Mean | None = None) -> Mean | Callable[[Mean], Mean]:
    """Register a weighted mean of your own as `aggregation: NAME`; without a function, a decorator.

    function: takes one block's adapters, [{tensor name: (r, in) or (out, r) float32}], whose ranks r may
        differ, and their weights (trained tokens), and returns one adapter with the same names.

    Raises JobError for a built-in's name, an empty one, or what cannot be called.
    """
    return AGGREGATIONS.register(name, function)


@overload
def register_robust_rule(name: str, function: RobustRule) -> RobustRule: ...
@overload
def register_robust_rule(name: str, function: None = None) -> Callable[[RobustRule], RobustRule]: ...
def register_robust_rule(
    name: str, function: RobustRule | None = None
) -> RobustRule | Callable[[RobustRule], RobustRule]:
    """Register a robust rule of your own as `robust_aggregation: NAME`; without a function, a decorator.

    function: takes one block's adapters without those of outlying length, as `register_aggregation` has them,
        and the job's `byzantine_clients`, and returns one adapter with the same names. It takes the place of
        the mean.

    Raises JobError for a built-in's name, an empty one, or what cannot be called.
    """
    return ROBUST_RULES.register(name, function)


def find_mean(name: str) -> Mean:
    """Return the aggregation rule of a name; a user's own is held to its contract at every call."""
    function = AGGREGATIONS.find(name)
    if AGGREGATIONS.is_built_in(name):
        return function

    def checked(blocks: Sequence[BlockAdapter], weights: Sequence[float]) -> BlockAdapter:
        return _checked(f"aggregation {name}", blocks, lambda: function(blocks, weights))

    return checked


def find_robust_rule(name: str) -> RobustRule:
    """Return the robust rule of a name; a user's own is held to its contract at every call."""
    function = ROBUST_RULES.find(name)
    if ROBUST_RULES.is_built_in(name):
        return function

    def checked(blocks: Sequence[BlockAdapter], byzantine: int) -> BlockAdapter:
        return _checked(f"robust_aggregation {name}", blocks, lambda: function(blocks, byzantine))

    return checked


def _checked(what: str, blocks: Sequence[BlockAdapter], call: Callable[[], BlockAdapter]) -> BlockAdapter:
    """Return the answer of a user's rule. Raises JobError that says what was expected and what came."""
    try:
        block = call()
    except Exception as error:  # a rule is any code
        raise JobError(f"{what} failed: {error_line(error)}") from error
    like = max(blocks, key=rank_of)
    if not isinstance(block, dict) or block.keys() != like.keys():
        came = ", ".join(map(str, block)) if isinstance(block, dict) else type(block).__name__
        raise JobError(f"{what} must return {{name: tensor}} of {', '.join(like)}, it returned {came}")
    for name, tensor in block.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != like[name].dtype:
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise JobError(f"{what}: {name} must be a {like[name].dtype} tensor, not {kind}")
        if not bool(torch.isfinite(tensor).all()):
            raise JobError(f"{what}: {name} must be finite, it has a value that is infinite or not a number")
    wanted = {name: tuple(tensor.shape) for name, tensor in like.items()}
    if any(tuple(tensor.shape) != wanted[name] for name, tensor in block.items()):
        block = _widened(what, block, like)
    return {name: block[name].detach().to(tensor.device) for name, tensor in like.items()}


def _widened(what: str, block: BlockAdapter, like: BlockAdapter) -> BlockAdapter:
    """Return an adapter of a smaller rank at the rank of the widest. Raises JobError for other shapes."""
    try:
        wide = resize(block, rank_of(like))
    except (RuntimeError, ValueError, KeyError, IndexError):
        wide = block
    for name, tensor in like.items():
        if wide[name].shape != tensor.shape:
            raise JobError(
                f"{what}: {name} must have the shape {tuple(tensor.shape)}, it has {tuple(block[name].shape)}"
            )
    return wide
