"""Prove that a model's loss in chunks is its own loss, on the model itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from splitft.common.text import error_line
from splitft.model.config import count_blocks, text_config
from splitft.model.head import ChunkedHead, HeadForm
from splitft.model.window import eval_mode, run_blocks
from splitft.proof.harness import ProbeRows, difference, loss_of, make_rows, tolerance

_CHUNK = 8  # tokens: several chunks of the few that are compared
_LOSS_TOKENS = 7  # another number than there are


def try_head(model: nn.Module, seed: int = 0, *, whole: bool = True) -> tuple[HeadForm, str]:
    """Return how the model's logits are made of a chunk's hidden states, or "whole" and the reason.

    The loss and its gradient at the last block are compared with the model's own, the mean and the sum, on
    rows of which some tokens have no label. Weights, gradients and modes are left alone.

    whole: the model has all its blocks, so that hidden states of its own enter the last one where random
        ones do not; else the last one is enough.
    """
    with eval_mode(model):
        rows = make_rows(model, seed=seed).with_gaps()
        form, problem = _try_form(model, rows, lambda: _random(model, rows, seed))
        if problem and whole:
            form, problem = _try_form(model, rows, lambda: _own(model, rows))
    return ("whole", problem) if problem else (form, "")


def whole_loss_notice(reason: str) -> str:
    """Return the notice that the loss is not computed in chunks."""
    return f"the loss is the model's own, over the full logits, and takes their memory: {reason}"


def _try_form(model: Any, rows: ProbeRows, entering: Callable[[], Tensor]) -> tuple[HeadForm, str]:
    try:
        hidden = entering()
        form = _form(model, rows, hidden)
        return form, _compare(model, rows, hidden, ChunkedHead(model, form, _CHUNK))
    except Exception as error:  # a foreign model may raise anything
        return "whole", error_line(error)


@torch.no_grad()
def _own(model: Any, rows: ProbeRows) -> Tensor:
    last = count_blocks(model.config) - 1
    hidden: Tensor = run_blocks(model, 0, last, input_ids=rows.input_ids, **rows.inputs)
    return hidden


def _random(model: Any, rows: ProbeRows, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(*rows.input_ids.shape, text_config(model).hidden_size, generator=generator)
    return random.to(rows.input_ids.device, next(model.parameters()).dtype)


def _run(model: Any, rows: ProbeRows, hidden: Tensor, **more: Any) -> Any:
    last = count_blocks(model.config) - 1
    return run_blocks(model, last, last + 1, hidden=hidden, input_ids=rows.input_ids, **rows.inputs, **more)


@torch.no_grad()
def _form(model: Any, rows: ProbeRows, hidden: Tensor) -> HeadForm:
    head = ChunkedHead(model, "plain", _CHUNK)
    logits = _run(model, rows, hidden).logits
    plain = head.module(head.hidden(lambda: _run(model, rows, hidden)))
    same = plain.shape == logits.shape and torch.equal(plain.float(), logits.float())
    return "plain" if same else "own"


def _compare(model: Any, rows: ProbeRows, hidden: Tensor, head: ChunkedHead) -> str:
    for loss_tokens in (0, _LOSS_TOKENS):
        more = {"num_items_in_batch": torch.tensor(loss_tokens, device=hidden.device)} if loss_tokens else {}
        entering = hidden.clone().requires_grad_()
        forward = partial(_run, model, rows, entering)
        with torch.enable_grad():
            losses = [
                loss_of(forward(labels=rows.labels, **more), rows),
                head.loss(head.hidden(forward), rows.labels, loss_tokens),
            ]
        slopes = [torch.autograd.grad(loss, entering)[0] for loss in losses]
        for name, (own, chunked) in {"loss": losses, "gradient": slopes}.items():
            if (apart := difference(own.detach(), chunked.detach())) > tolerance(hidden.dtype, 1e-5, 8):
                return f"in chunks the {name} differs by {apart:.3g} relative"
    return ""
