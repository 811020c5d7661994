"""Compare a model run whole with the same model run in parts: logits, loss and every gradient. (ours)

Everything here leaves the model as it was: weights, `.grad`, modes and the caller's random state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitft.model.window import call_model, find_blocks, hidden_argument, num_blocks, run_blocks

Side = Literal["left", "right"]
_MOST_COMPARED = 20_000_000
ServerInputs = Literal["dummy_ids", "input_ids"]


@dataclass(frozen=True)
class ProbeRows:
    """Two rows of unequal length: (2, seq) each, padded on one side."""

    side: Side
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    @property
    def valid(self) -> Tensor:
        return self.attention_mask.bool()

    def pick(self, logits: Tensor) -> Tensor:
        """Logits of the valid positions, (tokens, vocab); of all where a model answers in another shape."""
        logits = logits.detach()
        return logits[self.valid] if logits.shape[:2] == self.valid.shape else logits


@dataclass
class Result:
    """What one way of running the model gave."""

    logits: Tensor  # at the valid positions, (tokens, vocab)
    loss: Tensor
    gradients: list[Tensor | None]  # one for each parameter that requires a gradient
    at_cut: dict[int, Tensor] = field(default_factory=dict)  # gradient of what enters the block at a cut
    ran: set[int] = field(default_factory=set)  # blocks that the model called


@dataclass(frozen=True)
class Difference:
    """How far a split run is from the whole one. Gradients are relative to each gradient's largest entry."""

    logits: float = 0.0
    gradients: float = 0.0
    equal: bool = True
    where: str = ""

    def join(self, other: Difference) -> Difference:
        """The larger of both; the first place of inequality stays."""
        return Difference(
            max(self.logits, other.logits),
            max(self.gradients, other.gradients),
            self.equal and other.equal,
            self.where or other.where,
        )


def make_rows(model: nn.Module, side: Side, seed: int, seq: int = 12) -> ProbeRows:
    """Rows of seq and seq - 5 random tokens, none of them special and none that dummy ids may take."""
    text: Any = model.config.get_text_config(decoder=True)  # type: ignore[union-attr,operator]
    special = {0, 1, 2, 3} | _special_ids(model.config) | _special_ids(text)
    candidates = torch.tensor([i for i in range(min(int(text.vocab_size), 2000)) if i not in special])
    generator = torch.Generator().manual_seed(seed)
    ids = candidates[torch.randint(len(candidates), (2, seq), generator=generator)]
    mask = torch.ones_like(ids)
    short = slice(0, 5) if side == "left" else slice(seq - 5, seq)
    mask[1, short] = 0
    pad = getattr(text, "pad_token_id", None)
    ids[1, short] = pad if isinstance(pad, int) and 0 <= pad < text.vocab_size else 0
    device = next(model.parameters()).device
    labels = ids.masked_fill(mask == 0, -100)
    return ProbeRows(side, ids.to(device), mask.to(device), labels.to(device))


def _special_ids(config: Any) -> set[int]:
    found: set[int] = set()
    for name, value in vars(config).items():
        if name.endswith(("token_id", "token_index", "_token_ids")):
            found |= {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
    return found


def compared_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are compared: all that require one.

    None where these are so many that their gradients would fill the memory (a large model that is not frozen
    yet): the gradient at the cut, which is always compared, then stands for those of the front.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return trained if sum(p.numel() for p in trained) <= _MOST_COMPARED else []


def run_whole(model: nn.Module, rows: ProbeRows, cuts: Iterable[int]) -> Result:
    """Run the model as it is, and note the gradient of what enters the block at each cut."""
    parameters = compared_parameters(model)
    _, _, blocks = find_blocks(model)
    entering: dict[int, Tensor] = {}
    ran: set[int] = set()
    wanted_cuts = set(cuts)
    hooks = [
        block.register_forward_pre_hook(_noting(i, i in wanted_cuts, entering, ran), with_kwargs=True)
        for i, block in enumerate(blocks)
    ]
    try:
        with torch.enable_grad():
            out = call_model(
                model, input_ids=rows.input_ids, attention_mask=rows.attention_mask, labels=rows.labels
            )
            loss = loss_of(out, rows)
    finally:
        for hook in hooks:
            hook.remove()
    wanted = [*entering.values(), *parameters]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    at_cut = {cut: g for cut, g in zip(entering, gradients, strict=False) if g is not None}
    return Result(rows.pick(out.logits), loss.detach(), list(gradients[len(entering) :]), at_cut, ran)


def _noting(index: int, is_cut: bool, entering: dict[int, Tensor], ran: set[int]) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ran.add(index)
        if not is_cut or index in entering:
            return None
        where = hidden_argument(args, kwargs)
        hidden = args[where] if isinstance(where, int) else kwargs[where]
        if not hidden.requires_grad:  # a frozen base: what enters the cut is a leaf
            hidden = hidden.detach().requires_grad_()
        entering[index] = hidden
        own = hidden.clone()  # the block may write into its input
        if isinstance(where, int):
            return (*args[:where], own, *args[where + 1 :]), kwargs
        return args, {**kwargs, where: own}

    return hook


def run_split(
    model: nn.Module, rows: ProbeRows, cut: int, tail: int | None, server_inputs: ServerInputs
) -> Result:
    """Run front [0, cut), trunk [cut, tail or end) and, with `tail`, the last blocks, as three parties would.

    What crosses a cut is detached; gradients of the parts are summed. The tail holds the real ids.
    """
    parameters = compared_parameters(model)
    ids = rows.input_ids if server_inputs == "input_ids" else None
    mask = rows.attention_mask
    with torch.enable_grad():
        front = run_blocks(model, 0, cut, input_ids=rows.input_ids, attention_mask=mask)
        crossed = front.detach().requires_grad_()
        _overwrite_memory(model, rows, cut)
        if tail is None:
            out = run_blocks(
                model,
                cut,
                num_blocks(model),
                hidden=crossed,
                input_ids=ids,
                attention_mask=mask,
                labels=rows.labels,
            )
        else:
            trunk = run_blocks(model, cut, tail, hidden=crossed, input_ids=ids, attention_mask=mask)
            returned = trunk.detach().requires_grad_()
            _overwrite_memory(model, rows, tail)
            out = run_blocks(
                model,
                tail,
                num_blocks(model),
                hidden=returned,
                input_ids=rows.input_ids,
                attention_mask=mask,
                labels=rows.labels,
            )
        loss = loss_of(out, rows)
    total: list[Tensor | None] = [None] * len(parameters)
    if tail is None:
        gradient = _add_gradients(total, loss, None, crossed, parameters)
    else:
        back = _add_gradients(total, loss, None, returned, parameters)
        gradient = _add_gradients(total, trunk, back, crossed, parameters)
    if parameters and front.requires_grad:
        _add_gradients(total, front, gradient, None, parameters)
    return Result(rows.pick(out.logits), loss.detach(), total, {cut: gradient})


@torch.no_grad()
def _overwrite_memory(model: nn.Module, rows: ProbeRows, stop: int) -> None:
    """Run the blocks before `stop` on other text: another party does not see what a block keeps in itself."""
    others = rows.input_ids.roll(1, dims=1)
    run_blocks(model, 0, stop, input_ids=others, attention_mask=rows.attention_mask)


def _add_gradients(
    total: list[Tensor | None],
    output: Tensor,
    gradient: Tensor | None,
    entering: Tensor | None,
    parameters: Sequence[nn.Parameter],
) -> Tensor:
    """Back-propagate one part; add to `total`; return the gradient of what entered the part."""
    wanted = [entering, *parameters] if entering is not None else list(parameters)
    gradients = torch.autograd.grad(output, wanted, grad_outputs=gradient, allow_unused=True)
    first = gradients[0] if entering is not None else None
    for i, more in enumerate(gradients[len(wanted) - len(parameters) :]):
        so_far = total[i]
        if more is not None:
            total[i] = more if so_far is None else so_far + more
    if first is None:
        return torch.zeros_like(entering) if entering is not None else output
    return first


def loss_of(out: Any, rows: ProbeRows) -> Tensor:
    """The model's own loss, or next-token cross-entropy where the model computes none."""
    if getattr(out, "loss", None) is not None:
        loss: Tensor = out.loss
        return loss
    targets = rows.labels[:, 1:].flatten()
    return functional.cross_entropy(out.logits[:, :-1].flatten(0, 1).float(), targets)


def compare(whole: Result, split: Result, cut: int, where: str, noise: float = 0.0) -> Difference:
    """Compare two results. Logits and loss must be bit-equal.

    Gradients must be equal, or differ by the order of a sum (a tied or repeated parameter gets terms from
    several parts): at most 1e-6 relative in float32, or four times the noise between two identical runs.
    """
    logits = float((whole.logits.float() - split.logits.float()).abs().max())
    loss = float((whole.loss.float() - split.loss.float()).abs())
    equal = torch.equal(whole.logits, split.logits) and torch.equal(whole.loss, split.loss)
    worst, gradients_equal = 0.0, True
    pairs = list(zip(whole.gradients, split.gradients, strict=True))
    if cut in whole.at_cut:  # else the model itself passes over the block at the cut
        pairs.append((whole.at_cut[cut], split.at_cut[cut]))
    floor = 1e-6 * max((float(a.abs().max()) for a, _ in pairs if a is not None and a.numel()), default=1.0)
    for one, other in pairs:
        difference, tolerance = _relative(one, other, floor)
        worst = max(worst, difference)
        gradients_equal &= difference <= max(tolerance, 4 * noise)  # also False for NaN
    if equal and gradients_equal:
        return Difference(logits, worst)
    size = (
        f"logits differ by {logits:.3g}"
        if logits or not equal
        else f"gradients differ by {worst:.3g} relative"
    )
    if not logits and loss:
        size = f"the loss differs by {loss:.3g}"
    return Difference(logits, worst, False, f"{where}: {size}")


def _relative(one: Tensor | None, other: Tensor | None, floor: float) -> tuple[float, float]:
    if one is None or other is None:
        left = one if one is not None else other
        return (0.0, 0.0) if left is None or not left.any() else (float("inf"), 0.0)
    if torch.equal(one, other):
        return 0.0, 0.0
    scale = max(float(one.abs().max()), floor)
    tolerance = 1e-6 if one.dtype is torch.float32 else 8 * torch.finfo(one.dtype).eps
    return float((one.float() - other.float()).abs().max()) / scale, tolerance


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave the caller's random state as it was, on the CPU and the current accelerator."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
