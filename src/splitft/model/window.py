"""Split any decoder: run the model's own forward, and decide which of its blocks execute.

The block list of the model is replaced by a `Window`, a list that holds the same blocks under the same names.
While a `Plan` is active, iterating the window yields stand-ins: blocks outside [start, stop) hand their input
on, the block at `start` takes the hidden states that came over the cut, and the forward is left at `stop`.
Masks, rotary tables, positions, norms, soft-caps, tied heads and the loss stay the model's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from splitft.errors import ModelError
from splitft.model.config import count_blocks

T = TypeVar("T")
_HIDDEN_NAMES = ("hidden_states", "hidden_state", "hidden", "x", "inputs", "input")


@dataclass
class Plan:
    """Which blocks of one window run in one forward call."""

    window: Window
    start: int
    stop: int
    hidden: Tensor | None = None  # what crossed the cut, as the model lays it out, enters at block `start`
    on_block: Callable[[int], None] | None = None  # told the index of each block right before it runs
    entered: int | None = None  # where `hidden` entered: after `start` if the model itself skips that block

    def call(self, block: nn.Module | None, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer the model's call of a block."""
        where, hidden = hidden_argument(args, kwargs)
        if index >= self.stop:
            raise LeftAt(hidden)
        if index < self.start:
            return pass_on(self.window.habits.answers[index], hidden)
        if self.hidden is not None and self.entered in (None, index):
            self.entered = index
            entering = self.hidden if index in self.window.habits.wide else self.hidden.to(hidden.dtype)
            args, kwargs = with_hidden(where, entering, args, kwargs)
        if self.on_block is not None:
            self.on_block(index)
        assert block is not None
        return block(*args, **kwargs)


@dataclass(frozen=True)
class Habits:
    """How a model's blocks are called and answer; learned from one call of the whole model."""

    answers: tuple[int, ...]  # of each block: 0 for a tensor, n for a tuple of n
    wide: frozenset[int] = frozenset()  # blocks that take a wider dtype than the first (a float32 residual)
    axes: tuple[int, int] = (0, 1)  # where the model's hidden states have batch and seq


class LeftAt(Exception):  # noqa: N818 - a way out of the model's forward, not an error
    """Carries the hidden states, its argument, out of the model's forward."""


_active: ContextVar[Plan | None] = ContextVar("splitft_plan", default=None)
_paths: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # from a model to its window


class Window(nn.ModuleList):
    """A model's block list whose iteration obeys the active plan. Without a plan it is the list itself."""

    habits: Habits
    fixed: frozenset[str] | None = None  # arguments of blocks that do not go by rows; None: not learned yet

    def _plan(self) -> Plan | None:
        plan = _active.get()
        return plan if plan is not None and plan.window is self else None

    def __iter__(self) -> Iterator[nn.Module]:
        plan = self._plan()
        if plan is None:
            return super().__iter__()
        return iter([_StandIn(block, i, plan) for i, block in enumerate(self._modules.values())])  # type: ignore[misc]

    def __getitem__(self, index: int | slice) -> Any:
        if self._plan() is None:
            return super().__getitem__(index)
        return list(self)[index]


class _StandIn:
    """What the model's forward meets in place of a block while a plan is active."""

    # The plan is bound when the forward asks for the block, so that a block recomputed by gradient
    # checkpointing during the backward, when no plan is active any more, still obeys it.
    def __init__(self, block: nn.Module | None, index: int, plan: Plan) -> None:
        self._block = block
        self._index = index
        self._plan = plan

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._block)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._plan.call(self._block, self._index, args, kwargs)

    forward = __call__


def pass_on(answers: int, hidden: Tensor) -> Any:
    """Return hidden states as a block answers that does nothing: a tensor (0), or a tuple of so many."""
    return (hidden,) + (None,) * (answers - 1) if answers else hidden


def with_hidden(
    where: int | str, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a block's call with other hidden states."""
    if isinstance(where, int):
        return (*args[:where], hidden, *args[where + 1 :]), kwargs
    return args, {**kwargs, where: hidden}


def hidden_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | str, Tensor]:
    """Return where a block's call carries its hidden states, a position or a name, and these."""
    if args and isinstance(args[0], Tensor):
        return 0, args[0]
    for name in _HIDDEN_NAMES:
        if isinstance(value := kwargs.get(name), Tensor):
            return name, value
    for name, value in kwargs.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 3:
            return name, value
    raise ModelError("a block was called without hidden states: this model cannot be split")


def find_blocks(model: nn.Module) -> tuple[nn.Module, str, nn.ModuleList]:
    """Return (parent, attribute, list) of the decoder's blocks.

    The shallowest `ModuleList` under `get_decoder()` that has as many entries as the configuration states
    layers; among equals the one with the most parameters. Raises ModelError where there is none.
    """
    count = count_blocks(model.config)
    decoder: Any = getattr(model, "get_decoder", lambda: None)()
    for root in (decoder, model):
        if not isinstance(root, nn.Module):
            continue
        found = [
            (name.count("."), -sum(p.numel() for p in module.parameters()), name, module)
            for name, module in root.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == count and name
        ]
        if found:
            _, _, name, blocks = min(found, key=lambda entry: entry[:2])
            parent, _, attribute = name.rpartition(".")
            return root.get_submodule(parent), attribute, blocks
    raise ModelError(
        f"{type(model).__name__} has no list of {count} blocks under its decoder: it cannot be split. "
        "Run `splitft check --all-architectures` for the types that can."
    )


def install_window(model: nn.Module, habits: Habits | None = None) -> Window:
    """Put a window in place of the model's block list, in place; idempotent.

    Without `habits` they are learned from one call of a few tokens, which needs the whole model. Parameter
    names, indices and length do not change.
    """
    try:  # the window that was put in, without a search
        known = model.get_submodule(_paths[model])
    except (KeyError, AttributeError):
        known = None
    if isinstance(known, Window):
        return known
    parent, attribute, blocks = find_blocks(model)
    if not isinstance(blocks, Window):
        window = Window(blocks._modules.values())
        window.training = blocks.training
        window.habits = habits or learn_habits(model)
        setattr(parent, attribute, window)
        blocks = window
    _paths[model] = next(path for path, module in model.named_modules() if module is blocks)
    return blocks


def block_path(model: nn.Module) -> str:
    """Return the full name of a model's block list."""
    blocks = find_blocks(model)[2]
    found: str = next(name for name, module in model.named_modules() if module is blocks)
    return found


def learn_habits(model: nn.Module) -> Habits:
    """Call a whole model on 3 rows of 5 dummy ids, and note how its blocks take and give hidden states."""
    # One call, with hooks that note answers and inputs.
    _, _, blocks = find_blocks(model)
    answers = [0] * len(blocks)
    entered: dict[int, Tensor] = {}

    def note(index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            answers[index] = len(output) if isinstance(output, tuple) else 0
            entered[index] = hidden_argument(args, kwargs)[1]

        return hook

    hooks = [block.register_forward_hook(note(i), with_kwargs=True) for i, block in enumerate(blocks)]
    batch, seq = 3, 5  # no model has hidden states of such a size on another axis
    try:
        with eval_mode(model), torch.no_grad():
            call_model(model, input_ids=dummy_ids(model, batch, seq, next(model.parameters()).device))
    finally:
        for handle in hooks:
            handle.remove()
    # The blocks that take a wider dtype, and the axes of batch and seq.
    first = next(iter(entered.values()), None)
    if first is None:
        raise ModelError(f"{type(model).__name__} never calls its blocks: it cannot be split")
    wide = frozenset(i for i, hidden in entered.items() if hidden.dtype.itemsize > first.dtype.itemsize)
    shape = tuple(first.shape)
    known = shape[:2] != (batch, seq) and shape.count(batch) == shape.count(seq) == 1
    axes = (shape.index(batch), shape.index(seq)) if known else (0, 1)
    return Habits(tuple(answers), wide, axes)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode, and each back into its own mode at the end."""
    with kept_modes(model):
        model.eval()
        yield


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Put every module back into its own mode at the end."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def run_blocks(
    model: nn.Module,
    start: int,
    stop: int,
    *,
    hidden: Tensor | None = None,
    input_ids: Tensor | None = None,
    on_block: Callable[[int], None] | None = None,
    **inputs: Any,
) -> Any:
    """Run blocks [start, stop) inside the model's own forward.

    hidden: (batch, seq, hidden), needed when start > 0; without `input_ids` the embeddings then see dummy ids
    and their output is dropped. inputs: attention_mask, position_ids, labels, … as the model takes them.
    Returns (batch, seq, hidden) when stop < number of blocks, else the model's output; hidden may have more
    axes (hyper-connections). `on_block` is called with -1 before the embeddings and with the index of every
    block right before it runs.
    Raises ModelError on an impossible range.
    """
    # Inputs: dummy ids where the ids are not given.
    window = install_window(model)
    if not 0 <= start < stop <= len(window):
        raise ModelError(f"cannot run blocks [{start}, {stop}) of {len(window)}")
    if start > 0 and hidden is None:
        raise ModelError(f"blocks from {start} on need the hidden states of block {start - 1}")
    if input_ids is None:
        if hidden is None:
            raise ModelError("the first block needs input_ids")
        batch, seq = _batch_and_seq(hidden, inputs)
        input_ids = dummy_ids(model, batch, seq, hidden.device)
    # The model's own forward, which the window leaves at `stop`.
    if on_block is not None:
        on_block(-1)
    axes = window.habits.axes
    plan = Plan(window, start, stop, hidden if hidden is None else hidden.movedim((0, 1), axes), on_block)
    try:
        with obeyed(plan):
            output = call_model(model, input_ids=input_ids, **inputs)
    except LeftAt as left:
        ran = hidden is None or plan.entered is not None  # a model may itself pass over blocks
        output = left.args[0].movedim(axes, (0, 1)) if ran else hidden
    if (stop < len(window)) != isinstance(output, Tensor) or (
        stop == len(window) and hidden is not None and plan.entered is None
    ):
        raise ModelError(f"{type(model).__name__} does not run blocks [{start}, {stop}) on these inputs")
    return output


@contextmanager
def set_within(variable: ContextVar[T | None], value: T) -> Iterator[None]:
    """Set a context variable for the time of a block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def obeyed(plan: Plan) -> AbstractContextManager[None]:
    """Have the plan's window obey it."""
    return set_within(_active, plan)


def run_no_block(model: nn.Module, device: torch.device) -> Any:
    """Run the model's own forward on one dummy id without any block; return its output."""
    window = install_window(model)
    with obeyed(Plan(window, len(window), len(window) + 1)):
        return call_model(model, input_ids=dummy_ids(model, 1, 1, device))


def _batch_and_seq(hidden: Tensor, inputs: dict[str, Any]) -> tuple[int, int]:
    # A few models put a prompt in front of the hidden states: the other inputs know better.
    for name in ("attention_mask", "labels", "position_ids"):
        value = inputs.get(name)
        if isinstance(value, Tensor) and value.ndim == 2:
            return value.shape[0], value.shape[1]
    return hidden.shape[0], hidden.shape[1]


def call_model(model: nn.Module, **inputs: Any) -> Any:
    """Call the model with the inputs it knows, without a cache; None is left out."""
    inputs["use_cache"] = False
    known = _parameters_of(type(model).forward)
    return model(**{k: v for k, v in inputs.items() if v is not None and (k in known or "**" in known)})


@lru_cache(maxsize=64)
def _parameters_of(forward: Callable[..., Any]) -> frozenset[str]:
    parameters = inspect.signature(forward).parameters.values()
    return frozenset("**" if p.kind is p.VAR_KEYWORD else p.name for p in parameters)


def dummy_ids(model: nn.Module, batch: int, seq: int, device: torch.device) -> Tensor:
    """(batch, seq) token ids that stand for nothing: in the vocabulary and never the padding id."""
    pad = getattr(model.config, "pad_token_id", None)
    return torch.full((batch, seq), 2 if pad == 1 else 1, dtype=torch.long, device=device)
