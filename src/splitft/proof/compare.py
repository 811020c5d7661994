"""Compare a model run whole with the same model run in parts: logits, loss and every gradient.

Everything here leaves the model as it was: weights, `.grad`, modes and the caller's random state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from splitft.model.config import count_blocks
from splitft.model.split_model import ServerInputs
from splitft.model.window import (
    call_model,
    find_blocks,
    hidden_argument,
    install_window,
    run_blocks,
    with_hidden,
)
from splitft.proof.harness import ProbeRows, differences, distance, loss_of, tolerance

_MOST_COMPARED = 20_000_000


@dataclass
class Result:
    """The results of one way of running the model."""

    logits: Tensor  # at the valid positions, (tokens, vocab)
    loss: Tensor
    gradients: list[Tensor | None]  # one for each parameter that requires a gradient
    at_cut: dict[int, Tensor | None] = field(default_factory=dict)  # gradient of what enters a cut's block
    ran: set[int] = field(default_factory=set)  # blocks that the model called
    crossed: Tensor | None = None  # what crossed the first cut, at the valid positions

    @property
    def finite(self) -> bool:
        tensors = [self.logits, self.loss, *self.at_cut.values(), *self.gradients]
        return all(tensor is None or bool(torch.isfinite(tensor).all()) for tensor in tensors)


class Difference(NamedTuple):
    """The distance of a split run from the whole one; gradients relative to their largest entries."""

    logits: float
    gradients: float
    problem: str = ""  # empty: as close as asked


def compared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters whose gradients are compared: all that require one.

    None where their gradients would fill the memory (a large model that is not frozen yet): the gradient at
    the cut, which is always compared, then stands for those of the front.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return trained if sum(p.numel() for p in trained) <= _MOST_COMPARED else []


def run_whole(model: nn.Module, rows: ProbeRows, cuts: Iterable[int]) -> Result:
    """Run the model as it is, and note the gradient of what enters the block at each cut."""
    parameters, wanted_cuts = compared_parameters(model), set(cuts)
    _, _, blocks = find_blocks(model)
    entering: dict[int, Tensor] = {}
    ran: set[int] = set()

    def note(index: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ran.add(index)
        if index not in wanted_cuts or index in entering:
            return None
        where, hidden = hidden_argument(args, kwargs)
        if not hidden.requires_grad:  # a frozen base: what enters the cut is a leaf
            hidden = hidden.detach().requires_grad_()
        entering[index] = hidden
        return with_hidden(where, hidden.clone(), args, kwargs)  # the block may write into its input

    hooks = [
        block.register_forward_pre_hook(partial(note, i), with_kwargs=True) for i, block in enumerate(blocks)
    ]
    try:
        with torch.enable_grad():
            out = call_model(model, input_ids=rows.input_ids, labels=rows.labels, **rows.inputs)
            loss = loss_of(out, rows)
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(loss, [*entering.values(), *parameters], allow_unused=True)
    axes = install_window(model).habits.axes  # batch and seq to the front, as what crosses a cut has them
    moved = [None if g is None else g.movedim(axes, (0, 1)) for g in gradients[: len(entering)]]
    at_cut: dict[int, Tensor | None] = dict(zip(entering, moved, strict=True))
    return Result(rows.pick(out.logits), loss.detach(), list(gradients[len(entering) :]), at_cut, ran)


def run_split(
    model: nn.Module, rows: ProbeRows, cut: int, tail: int | None, server_inputs: ServerInputs
) -> Result:
    """Run front [0, cut), trunk [cut, tail or end) and, with `tail`, the last blocks, as three parties would.

    What crosses a cut is detached; gradients of the parts are summed. The tail holds the real ids.
    """
    parameters, end = compared_parameters(model), count_blocks(model.config)
    parts = [(cut, tail or end, rows.at_server(server_inputs))]
    if tail is not None:
        parts.append((tail, end, rows.input_ids))
    # Forward, part by part: each starts from what the part before it handed over.
    entering: list[Tensor] = []
    with torch.enable_grad():
        outputs = [run_blocks(model, 0, cut, input_ids=rows.input_ids, **rows.inputs)]
        for start, stop, ids in parts:
            entering.append(outputs[-1].detach().requires_grad_())
            with torch.no_grad():  # on other text: another party does not see what a block keeps in itself
                run_blocks(model, 0, start, input_ids=rows.input_ids.roll(1, dims=1), **rows.inputs)
            last: dict[str, Any] = {"labels": rows.labels} if stop == end else {}
            outputs.append(
                run_blocks(model, start, stop, hidden=entering[-1], input_ids=ids, **rows.inputs, **last)
            )
        loss = loss_of(outputs[-1], rows)
    # Backward, from the last part to the front: each takes the gradient that the part after it hands back.
    total: list[Tensor | None] = [None] * len(parameters)
    gradient = None
    for output, entered in zip([loss, *outputs[-2:0:-1]], reversed(entering), strict=True):
        gradient = _add_gradients(total, output, gradient, entered, parameters)
    if parameters and outputs[0].requires_grad:
        _add_gradients(total, outputs[0], gradient, None, parameters)
    assert gradient is not None
    logits, crossed = rows.pick(outputs[-1].logits), rows.pick(outputs[0])
    return Result(logits, loss.detach(), total, {cut: gradient}, crossed=crossed)


def _add_gradients(
    total: list[Tensor | None],
    output: Tensor,
    gradient: Tensor | None,
    entering: Tensor | None,
    parameters: Sequence[nn.Parameter],
) -> Tensor | None:
    """Back-propagate one part; add to `total`; return the gradient of what entered the part."""
    wanted = [entering, *parameters] if entering is not None else list(parameters)
    gradients = torch.autograd.grad(output, wanted, grad_outputs=gradient, allow_unused=True)
    for i, more in enumerate(gradients[len(wanted) - len(parameters) :]):
        so_far = total[i]
        if more is not None:
            total[i] = more if so_far is None else so_far + more
    if entering is None:
        return None
    return gradients[0] if gradients[0] is not None else torch.zeros_like(entering)


def compare(whole: Result, split: Result, cut: int, where: str, noise: float = 0.0) -> Difference:
    """Compare two results. Logits and loss must be bit-equal.

    Gradients must be equal, or differ by the order of a sum (a tied or repeated parameter gets terms from
    several parts): at most 1e-6 relative in float32, or four times the noise between two identical runs.
    """
    logits, loss = distance(whole.logits, split.logits), distance(whole.loss, split.loss)
    pairs = list(zip(whole.gradients, split.gradients, strict=True))
    if cut in whole.at_cut:  # else the model itself passes over the block at the cut
        wanted = whole.at_cut[cut]
        if wanted is None or not bool(wanted.any()):
            return Difference(logits, 0.0, f"{where}: no gradient comes back to what crosses the cut")
        pairs.append((wanted, split.at_cut[cut]))
    found = differences(pairs)
    worst = max(found, default=0.0)
    if logits or loss:
        size = f"logits differ by {logits:.3g}" if logits else f"the loss differs by {loss:.3g}"
        return Difference(logits, worst, f"{where}: {size}")
    for apart, (own, _) in zip(found, pairs, strict=True):
        if apart and (own is None or apart > max(tolerance(own.dtype, 1e-6, 8), 4 * noise)):
            return Difference(logits, worst, f"{where}: gradients differ by {worst:.3g} relative")
    return Difference(logits, worst)
