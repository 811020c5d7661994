"""Server optimizers: how the global adapter of a block follows the average of a round; pure.

FedAvgM: Hsu et al. (arXiv 1909.06335). FedAdam and FedYogi: Reddi et al., Adaptive Federated Optimization
(ICLR 2021), Algorithm 2: no bias correction, and the second moment starts at tau². Flower's classes of these
names start it at zero, and newer ones of FedAdam correct the bias of the first rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, overload

import torch
from torch import Tensor

from splitft.common.registry import Registry
from splitft.common.text import error_line
from splitft.errors import JobError
from splitft.job.algorithms import ServerOptimizerSettings
from splitft.lora.basis import Basis
from splitft.lora.blocks import BlockAdapter, from_matrices, has_rank, is_a, matrices, name_of_a, resize
from splitft.lora.moments import resize_squares, turned

ServerState = dict[str, BlockAdapter]  # {slot: tensors named and shaped like the block's}; {} at the start


class ServerOptimizer(Protocol):
    """The step of one block's global adapter.

    squares: names of the slots of its state that hold squares of updates. A block that changes its rank or
        its basis takes its state along: other slots as updates, these as squares of updates.
    """

    @property
    def squares(self) -> Collection[str]: ...

    def step(
        self, old: BlockAdapter, average: BlockAdapter, state: ServerState
    ) -> tuple[BlockAdapter, ServerState]:
        """Return the new global adapter of a block, and the new state.

        old: {name: tensor} of the block's trained tensors before the round, float32; A (rank, in),
            B (out, rank), with DoRA magnitudes (out,). A component that nobody trained has its old value.
        average: The average of the round, with the same names and shapes.
        """
        ...


@dataclass(frozen=True)
class FedAvgM:
    """v = momentum·v + (average - old); new = old + learning_rate·v."""

    learning_rate: float
    momentum: float
    squares: Collection[str] = ()

    def step(
        self, old: BlockAdapter, average: BlockAdapter, state: ServerState
    ) -> tuple[BlockAdapter, ServerState]:
        new, kept = {}, {}
        for name, mean in average.items():
            update = _update(old[name], mean)
            kept[name] = self.momentum * _slot(state, "v", name, update) + update
            new[name] = _moved(mean, self.learning_rate * kept[name] - update)
        return new, {"v": kept}


@dataclass(frozen=True)
class FedAdam:
    """m = beta1·m + (1 - beta1)·d, v = beta2·v + (1 - beta2)·d²; new = old + learning_rate·m / (√v + tau).

    d: average - old. v starts at tau².
    """

    learning_rate: float
    beta1: float
    beta2: float
    tau: float
    squares: Collection[str] = ("v",)

    def step(
        self, old: BlockAdapter, average: BlockAdapter, state: ServerState
    ) -> tuple[BlockAdapter, ServerState]:
        new, first, second = {}, {}, {}
        for name, mean in average.items():
            update = _update(old[name], mean)
            first[name] = self.beta1 * _slot(state, "m", name, update) + (1 - self.beta1) * update
            second[name] = self.second(_slot(state, "v", name, update, self.tau**2), update.square())
            step = self.learning_rate * first[name] / (second[name].sqrt() + self.tau)
            new[name] = _moved(mean, step - update)
        return new, {"m": first, "v": second}

    def second(self, before: Tensor, square: Tensor) -> Tensor:
        """Return the new second moment."""
        return self.beta2 * before + (1 - self.beta2) * square


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """As FedAdam, but v = v - (1 - beta2)·d²·sign(v - d²)."""

    def second(self, before: Tensor, square: Tensor) -> Tensor:
        return before - (1 - self.beta2) * square * torch.sign(before - square)


MakeServerOptimizer = Callable[[ServerOptimizerSettings], ServerOptimizer]
NONE = "none"  # the average itself


def _fedavgm(settings: ServerOptimizerSettings) -> ServerOptimizer:
    return FedAvgM(settings.server_learning_rate or 1.0, settings.server_momentum)


def _adaptive(kind: type[FedAdam]) -> MakeServerOptimizer:
    return lambda s: kind(s.server_learning_rate or 0.01, s.server_momentum, s.server_beta2, s.server_tau)


SERVER_OPTIMIZERS: Registry[MakeServerOptimizer] = Registry(
    "server optimizer",
    "register_server_optimizer",
    {"fedavgm": _fedavgm, "fedadam": _adaptive(FedAdam), "fedyogi": _adaptive(FedYogi)},
    [NONE],
)


@overload
def register_server_optimizer(name: str, make: MakeServerOptimizer) -> MakeServerOptimizer: ...
@overload
def register_server_optimizer(
    name: str, make: None = None
) -> Callable[[MakeServerOptimizer], MakeServerOptimizer]: ...
def register_server_optimizer(
    name: str, make: MakeServerOptimizer | None = None
) -> MakeServerOptimizer | Callable[[MakeServerOptimizer], MakeServerOptimizer]:
    """Register a server optimizer of your own as `server_optimizer: NAME`; without `make`, a decorator.

    make: the class, or whatever else returns a `ServerOptimizer` when called with the job's
        `server_...` keys (`ServerOptimizerSettings`). Over a network the server alone must register it.

    Raises JobError for a built-in's name, an empty one, or what cannot be called.
    """
    return SERVER_OPTIMIZERS.register(name, make)


def make_server_optimizer(settings: ServerOptimizerSettings) -> ServerOptimizer | None:
    """Return the job's server optimizer, None for the average itself; one of a user's own is checked."""
    name = settings.server_optimizer
    if name == NONE:
        return None
    make = SERVER_OPTIMIZERS.find(name)
    if SERVER_OPTIMIZERS.is_built_in(name):
        return make(settings)
    try:
        return CheckedServerOptimizer(name, make(settings))
    except Exception as error:  # a user's code
        raise JobError(f"server optimizer {name}: it cannot be made: {error_line(error)}") from error


class CheckedServerOptimizer:
    """A server optimizer of a user's own, held to its contract at every step.

    Raises JobError that names it, with what was expected and what came.
    """

    def __init__(self, name: str, optimizer: ServerOptimizer) -> None:
        self._name, self._optimizer = name, optimizer
        self.squares: Collection[str] = tuple(getattr(optimizer, "squares", ()))
        if not callable(getattr(optimizer, "step", None)):
            raise TypeError(f"{type(optimizer).__name__} has no method step")

    def step(
        self, old: BlockAdapter, average: BlockAdapter, state: ServerState
    ) -> tuple[BlockAdapter, ServerState]:
        try:
            given, mean = ({n: t.clone() for n, t in block.items()} for block in (old, average))
            kept = {s: {n: t.to(mean[n].device) for n, t in block.items()} for s, block in state.items()}
            answer = self._optimizer.step(given, mean, kept)
        except Exception as error:  # a user's code
            raise JobError(f"server optimizer {self._name}: step failed: {error_line(error)}") from error
        if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], Mapping):
            raise self._wrong("a pair (new, state) of dicts", type(answer).__name__)
        new, kept = answer
        finite = all(bool(t.isfinite().all()) for block in (old, average) for t in block.values())
        self._check("new", new, average, finite)
        for slot, tensors in kept.items():
            if not isinstance(slot, str):
                raise self._wrong("a state with names of slots", repr(slot))
            self._check(f"state[{slot!r}]", tensors, average, finite)
        # In the dtype of the adapter; state as it came, cut loose from any graph.
        adapter = {name: new[name].detach().to(tensor) for name, tensor in average.items()}
        return adapter, {
            s: {n: t.detach().clone() for n, t in tensors.items()} for s, tensors in kept.items()
        }

    def _check(self, what: str, block: Any, like: BlockAdapter, finite: bool) -> None:
        if not isinstance(block, Mapping) or set(block) != set(like):
            came = (sorted(block) if isinstance(block, Mapping) else type(block).__name__) or "{}"
            raise self._wrong(f"{what} with the block's names {sorted(like)}", str(came)[:200])
        for name, tensor in like.items():
            own = block[name]
            if not isinstance(own, Tensor) or not own.is_floating_point() or own.shape != tensor.shape:
                came = f"{own.dtype} {tuple(own.shape)}" if isinstance(own, Tensor) else type(own).__name__
                raise self._wrong(f"{what}[{name!r}] of shape {tuple(tensor.shape)}", came)
            if finite and not bool(own.isfinite().all()):
                raise self._wrong(f"{what}[{name!r}] finite", "a value that is infinite or not a number")

    def _wrong(self, wanted: str, came: str) -> JobError:
        return JobError(f"server optimizer {self._name}: step must return {wanted}, it returned {came}")


def resize_state(state: ServerState, rank: int, squares: Collection[str]) -> ServerState:
    """Keep the leading components, or add new ones: without an update yet, of squares the others' mean."""
    return {
        slot: resize_squares(block, rank) if slot in squares else resize(block, rank)
        for slot, block in state.items()
    }


def rebase_state(state: ServerState, basis: Basis, squares: Collection[str]) -> ServerState:
    """Carry state through A' = T·A, B' = B·T⁻¹.

    Updates transform as A and B do, their squares with the squares of these coefficients.
    """
    return {slot: _rebased(block, basis, slot in squares) for slot, block in state.items()}


def _rebased(block: BlockAdapter, basis: Basis, square: bool) -> BlockAdapter:
    apart = matrices(block)
    for name in filter(has_rank, apart):
        change, on_a = basis[name_of_a(name)].double(), is_a(name)
        turn = change if on_a else torch.linalg.pinv(change).T
        apart[name] = turned(apart[name], turn.square() if square else turn, on_a)
    return from_matrices(apart, block)


def _update(old: Tensor, average: Tensor) -> Tensor:
    """Return what a round changed, in float64 on the CPU (some accelerators have no float64)."""
    return average.detach().cpu().double() - old.detach().cpu().double()


def _slot(state: ServerState, slot: str, name: str, like: Tensor, start: float = 0.0) -> Tensor:
    return state[slot][name] if slot in state else torch.full_like(like, start)


def _moved(average: Tensor, by: Tensor) -> Tensor:
    """Return the average, corrected: exactly the average where the step is the round's update itself."""
    return (average.detach().cpu().double() + by).to(average.dtype).to(average.device)
