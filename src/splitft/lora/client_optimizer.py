"""Client optimizers by transformers' names, one for each block, and their state.

Source: transformers' Trainer, whose names, defaults and form of `optim_args` these are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from splitft.common.registry import Registry
from splitft.common.state import State
from splitft.common.text import error_line
from splitft.errors import JobError
from splitft.job.settings import OptimizerSettings

MakeOptimizer = Callable[..., torch.optim.Optimizer]  # called as (params, lr, **optim_args)
ADAMW = ("adamw_torch", "adamw_torch_fused")  # whose moments move with their blocks


def _adafactor(params: Any, lr: float, **args: Any) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor

    made: torch.optim.Optimizer = Adafactor(params, lr, scale_parameter=False, relative_step=False, **args)
    return made


def _adamw(params: Any, lr: float, **args: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr, fused=True, **args)


OPTIMIZERS: Registry[MakeOptimizer] = Registry(
    "optimizer",
    "register_optimizer",
    {
        **dict.fromkeys(ADAMW, _adamw),
        "sgd": torch.optim.SGD,
        "adagrad": torch.optim.Adagrad,
        "rmsprop": torch.optim.RMSprop,
        "adafactor": _adafactor,
    },
)


@overload
def register_optimizer(name: str, make: MakeOptimizer) -> MakeOptimizer: ...
@overload
def register_optimizer(name: str, make: None = None) -> Callable[[MakeOptimizer], MakeOptimizer]: ...
def register_optimizer(
    name: str, make: MakeOptimizer | None = None
) -> MakeOptimizer | Callable[[MakeOptimizer], MakeOptimizer]:
    """Register an optimizer of your own as `optim: NAME`; without `make`, a decorator.

    make: the class, or a function of (params, lr, **optim_args) that returns a torch.optim.Optimizer. It is
        called once for each block; params: parameter groups of the block's trained tensors, which it must
        keep. The schedule sets their "lr" before each step. Over a network the server and every client must
        register it.

    Raises JobError for a built-in's name, an empty one, or what cannot be called.
    """
    return OPTIMIZERS.register(name, make)


def optim_arguments(text: str | None) -> dict[str, Any]:
    """Read transformers' "key=value,key=value". Raises JobError."""
    found: dict[str, Any] = {}
    for part in filter(None, (text or "").replace(" ", "").split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.isidentifier() or name in found:
            raise JobError(f"optim_args: write key=value,key=value, each key once; got {part!r}")
        found[name] = _value(value)
    return found


def make_optimizer(settings: OptimizerSettings, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimizer of a block. groups: its parameter groups, with keys `params` and `rate`.

    Raises JobError where it cannot be made with the job's optim_args, or is no optimizer of these groups.
    """
    name, args = settings.optim, optim_arguments(settings.optim_args)
    if name in ADAMW:
        args = {"betas": (settings.adam_beta1, settings.adam_beta2), "eps": settings.adam_epsilon, **args}
    given = [{**group, "weight_decay": settings.weight_decay} for group in groups]
    try:
        optimizer = OPTIMIZERS.find(name)(given, lr=settings.learning_rate, **args)
    except JobError:
        raise
    except Exception as error:  # a user's code, or arguments that it does not take
        stated = f" with optim_args {settings.optim_args}" if settings.optim_args else ""
        raise JobError(f"optim: {name}{stated}: {error_line(error)}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise JobError(f"optimizer {name}: must be a torch.optim.Optimizer, not {type(optimizer).__name__}")
    kept = [(group.get("rate"), [id(p) for p in group["params"]]) for group in optimizer.param_groups]
    if kept != [(group["rate"], [id(p) for p in group["params"]]) for group in groups]:
        raise JobError(f"optimizer {name}: must keep the parameter groups that it is given, as they are")
    return optimizer


def check_optimizer(settings: OptimizerSettings) -> None:
    """Raise JobError where nobody has registered the job's optimizer, or it does not take its arguments."""
    OPTIMIZERS.check("optim", settings.optim)
    make_optimizer(settings, [{"params": [nn.Parameter(torch.zeros(2, 2))], "rate": 0}])


def take_step(settings: OptimizerSettings, optimizer: torch.optim.Optimizer) -> None:
    """Take an optimizer's step. Raises JobError where a user's fails."""
    if OPTIMIZERS.is_built_in(settings.optim):
        optimizer.step()
        return
    try:
        optimizer.step()
    except Exception as error:  # a user's code
        raise JobError(f"optimizer {settings.optim}: step failed: {error_line(error)}") from error


def state_of(name: str, optimizer: torch.optim.Optimizer, block: Mapping[str, nn.Parameter]) -> State:
    """Return an optimizer's state of a block's trained tensors as a checkpoint holds it. Raises JobError."""
    return {tensor: _plain(name, optimizer.state[p]) for tensor, p in block.items() if p in optimizer.state}


def restore_state(optimizer: torch.optim.Optimizer, block: Mapping[str, nn.Parameter], state: State) -> None:
    """Restore a state returned by `state_of`; counts of steps stay on the CPU, as torch has them."""
    for tensor, kept in state.items():
        parameter = block[tensor]
        optimizer.state[parameter] = {
            key: value.to("cpu" if key == "step" else parameter.device).clone()
            if isinstance(value, Tensor)
            else value
            for key, value in kept.items()
        }


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _plain(name, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise JobError(
        f"optimizer {name}: its state holds {type(value).__name__}; a checkpoint takes tensors, numbers, "
        "texts, None, and lists and dicts of these"
    )


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
