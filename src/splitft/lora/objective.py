"""Client objectives: penalties beside the loss, block by block; pure.

FedProx: Li et al., Federated Optimization in Heterogeneous Networks (MLSys 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import overload

import torch
from torch import Tensor, nn

from splitft.common.registry import Registry
from splitft.common.text import error_line
from splitft.errors import JobError
from splitft.job.algorithms import ObjectiveSettings

# Of a block's trained tensors and of their values at the round's start: {name: tensor}, A (rank, in), B (out,
# rank), at the rank at which the block is trained. Returns a scalar that autograd can differentiate.
Penalty = Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]
PLAIN = "plain"  # the loss alone


def half_squared_distance(values: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    """Return half the squared distance of a block from the round's start: FedProx's proximal term."""
    return torch.stack([(tensor - start[name]).square().sum() for name, tensor in values.items()]).sum() / 2


OBJECTIVES: Registry[Penalty] = Registry(
    "objective", "register_objective", {"fedprox": half_squared_distance}, [PLAIN]
)


@overload
def register_objective(name: str, penalty: Penalty) -> Penalty: ...
@overload
def register_objective(name: str, penalty: None = None) -> Callable[[Penalty], Penalty]: ...
def register_objective(name: str, penalty: Penalty | None = None) -> Penalty | Callable[[Penalty], Penalty]:
    """Register an objective of your own as `objective: NAME`; without `penalty`, a decorator.

    penalty: takes a block's trained tensors and their values at the round's start, {name: tensor} each, and
        returns a scalar; `proximal_mu`, 1 by default, times the sum over all blocks is added to the loss.
        Over a network the server and every client must register it.

    Raises JobError for a built-in's name, an empty one, or what cannot be called.
    """
    return OBJECTIVES.register(name, penalty)


class ObjectiveGradient:
    """The gradient of the job's penalty. Raises JobError where a user's penalty is wrong."""

    def __init__(self, settings: ObjectiveSettings) -> None:
        self._name = settings.objective
        self._weight = 1.0 if settings.proximal_mu is None else settings.proximal_mu
        self.is_zero = self._name == PLAIN or self._weight == 0

    def add(self, values: Mapping[str, nn.Parameter], start: Mapping[str, Tensor]) -> None:
        """Add the gradient to those of a block's trained tensors."""
        with torch.enable_grad():
            penalty = self._of(values, start) * self._weight
        try:
            found = torch.autograd.grad(penalty, list(values.values()), allow_unused=True)
        except RuntimeError as error:
            raise self._wrong("a scalar that depends on the values", error_line(error)) from error
        if all(gradient is None for gradient in found):
            raise self._wrong("a scalar that depends on the values", "one that does not")
        for parameter, gradient in zip(values.values(), found, strict=True):
            if gradient is not None:
                if not OBJECTIVES.is_built_in(self._name) and not bool(gradient.isfinite().all()):
                    raise self._wrong("a scalar with finite gradients", "one that has others")
                own = gradient.contiguous()  # fused optimizers go by the parameter's layout
                parameter.grad = own if parameter.grad is None else parameter.grad.add_(own)

    def _of(self, values: Mapping[str, nn.Parameter], start: Mapping[str, Tensor]) -> Tensor:
        function = OBJECTIVES.find(self._name)
        try:
            penalty = function(dict(values), {name: tensor.clone() for name, tensor in start.items()})
        except Exception as error:  # a user's code
            raise JobError(f"objective {self._name} failed: {error_line(error)}") from error
        if not isinstance(penalty, Tensor):
            raise self._wrong("a scalar tensor", type(penalty).__name__)
        if penalty.ndim or not penalty.is_floating_point():
            raise self._wrong("a scalar tensor", f"{penalty.dtype} {tuple(penalty.shape)}")
        if not penalty.requires_grad:
            raise self._wrong("a scalar that depends on the values", "one that does not")
        if not bool(penalty.isfinite()) and all(bool(t.isfinite().all()) for t in values.values()):
            raise self._wrong("a finite value", "one that is infinite or not a number")
        return penalty

    def _wrong(self, wanted: str, came: str) -> JobError:
        return JobError(f"objective {self._name}: it must return {wanted}, it returned {came}")
