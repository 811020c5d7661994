"""Run clients with different cuts in one forward: rows join the batch at the block that follows their cut.

Rows are ordered by cut. The model's own forward runs once over all of them, and block i sees those that have
joined: a prefix that grows, with every argument that goes by rows cut alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from splitft.errors import ModelError
from splitft.model.window import (
    LeftAt,
    Plan,
    call_model,
    dummy_ids,
    eval_mode,
    hidden_argument,
    install_window,
    obeyed,
    pass_on,
    with_hidden,
)

_PROBE_ROWS, _PROBE_TOKENS = 3, 5  # no block has arguments of such a size for another reason


@dataclass
class JoinedPlan(Plan):
    """Which rows enter where: {block: (rows, seq, hidden)}, in the order of the blocks."""

    arrivals: Mapping[int, Tensor] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()  # arguments of blocks that do not go by rows
    rows: int = 0  # of all
    joined: set[int] = field(default_factory=set)

    def call(self, block: nn.Module | None, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer the model's call of a block."""
        where, hidden = hidden_argument(args, kwargs)
        if index >= self.stop:
            raise LeftAt(hidden)
        before = sum(rows.shape[0] for start, rows in self.arrivals.items() if start < index)
        arriving = self.arrivals.get(index)
        if arriving is None and not before:
            return pass_on(self.window.habits.answers[index], hidden)
        if before and hidden.shape[0] != before:
            raise ModelError(f"block {index} gets {hidden.shape[0]} rows where {before} have joined")
        if arriving is not None:
            self.joined.add(index)
            arriving = arriving if index in self.window.habits.wide else arriving.to(hidden.dtype)
            hidden = torch.cat([hidden, arriving]) if before else arriving
        if self.on_block is not None:
            self.on_block(index)
        if hidden.shape[0] < self.rows:
            args, kwargs = each_argument(args, kwargs, lambda name, value: self._cut(name, value, hidden))
        args, kwargs = with_hidden(where, hidden, args, kwargs)
        assert block is not None
        return block(*args, **kwargs)

    def _cut(self, name: str, value: Tensor, hidden: Tensor) -> Tensor:
        by_rows = value.ndim > 1 and value.shape[0] == self.rows and name not in self.fixed
        return value[: hidden.shape[0]] if by_rows else value


def run_joined(
    model: nn.Module,
    arrivals: Mapping[int, Tensor],
    stop: int,
    *,
    attention_mask: Tensor,
    input_ids: Tensor | None = None,
    on_block: Callable[[int], None] | None = None,
) -> Any:
    """Run blocks up to `stop` for rows that enter at different blocks.

    arrivals: {block: (rows, seq, hidden)}; the rows of attention_mask and input_ids (None: dummy ids) are in
    the order of these blocks. `on_block` is told of each block right before it runs. Returns what
    `run_blocks` does, for all rows in that order. Raises ModelError where the model does not take rows so.
    """
    window = install_window(model)
    arrivals = dict(sorted(arrivals.items()))
    rows, seq = attention_mask.shape
    if window.habits.axes != (0, 1) or sum(len(hidden) for hidden in arrivals.values()) != rows:
        raise ModelError(f"{type(model).__name__} does not take rows that join at different blocks")
    if input_ids is None:
        input_ids = dummy_ids(model, rows, seq, attention_mask.device)
    plan = JoinedPlan(window, min(arrivals), stop, None, on_block)
    plan.arrivals, plan.rows, plan.fixed = arrivals, rows, learn_fixed(model, *next(iter(arrivals.items())))
    try:
        with obeyed(plan):
            output = call_model(model, input_ids=input_ids, attention_mask=attention_mask)
    except LeftAt as left:
        output = left.args[0]
    if plan.joined != set(arrivals) or (stop < len(window)) != isinstance(output, Tensor):
        raise ModelError(f"{type(model).__name__} passes over a block where rows would join")
    return output


def each_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[str, Tensor], Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a block's call with each tensor in them changed; it is told by a name."""

    def changed(name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(name, value)
        if type(value) in (tuple, list):
            return type(value)(changed(f"{name}.{i}", one) for i, one in enumerate(value))
        if type(value) is dict:
            return {key: changed(f"{name}.{key}", one) for key, one in value.items()}
        return value

    new = tuple(changed(str(i), value) for i, value in enumerate(args))
    return new, {key: changed(key, value) for key, value in kwargs.items()}


class _Listening(Plan):
    """Notes which arguments of the blocks that run do not have rows first."""

    fixed: set[str]

    def call(self, block: nn.Module | None, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.start <= index < self.stop:
            each_argument(args, kwargs, self._note)
        return super().call(block, index, args, kwargs)

    def _note(self, name: str, value: Tensor) -> Tensor:
        if value.ndim < 2 or value.shape[0] != _PROBE_ROWS:
            self.fixed.add(name)
        return value


def learn_fixed(model: nn.Module, start: int, like: Tensor) -> frozenset[str]:
    """Return the names of arguments of blocks that do not go by rows.

    They are learned once, by running the blocks from `start` on a few rows of hidden states like these, with
    adapters as any `bind` left them.
    """
    window = install_window(model)
    if window.fixed is None:
        hidden = like.new_zeros(_PROBE_ROWS, _PROBE_TOKENS, *like.shape[2:])
        mask = torch.ones(_PROBE_ROWS, _PROBE_TOKENS, dtype=torch.long, device=like.device)
        mask[1, 2:] = 0  # else some models make no mask
        plan = _Listening(window, start, len(window), hidden)
        plan.fixed = set()
        ids = dummy_ids(model, _PROBE_ROWS, _PROBE_TOKENS, like.device)
        with obeyed(plan), eval_mode(model), torch.no_grad():
            call_model(model, input_ids=ids, attention_mask=mask)
        window.fixed = frozenset(plan.fixed)
    return window.fixed
