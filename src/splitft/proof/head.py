"""Prove that a model's loss in chunks is its own loss, on the model itself. (ours)"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from splitft.common.text import one_line
from splitft.errors import ModelError
from splitft.model.head import IGNORE, ChunkedHead, HeadForm
from splitft.model.window import eval_mode, num_blocks, run_blocks
from splitft.proof.compare import ProbeRows, loss_of, make_rows

_CHUNK = 8  # tokens: several chunks of the few that are compared
_LOSS_TOKENS = 7  # another number than there are


def try_head(model: nn.Module, seed: int = 0, *, whole: bool = True) -> tuple[HeadForm, str]:
    """Return how the model's logits are made of a chunk's hidden states, or "whole" and why they cannot be.

    The loss and its gradient at the last block are compared with the model's own, the mean and the sum, on
    rows of which some tokens have no label. whole: the model has all its blocks; else at least the last one,
    and random hidden states enter it. Weights, gradients and modes are left alone.
    """
    try:
        with eval_mode(model):
            rows = make_rows(model, "right", seed)
            hidden = _entering(model, rows, seed, whole)
            form = _form(model, rows, hidden)
            problem = _compare(model, rows, hidden, ChunkedHead(model, form, _CHUNK))
    except Exception as error:  # whatever a foreign model may raise
        problem = (
            one_line(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {one_line(error)}"
        )
    return ("whole", problem) if problem else (form, "")


def whole_loss_notice(reason: str) -> str:
    """Say what a person must know where the loss is not computed in chunks."""
    return f"the loss is the model's own, over the full logits, and takes their memory: {reason}"


@torch.no_grad()
def _entering(model: Any, rows: ProbeRows, seed: int, whole: bool) -> Tensor:
    last = num_blocks(model) - 1
    if whole:
        hidden: Tensor = run_blocks(
            model, 0, last, input_ids=rows.input_ids, attention_mask=rows.attention_mask
        )
        return hidden
    width = model.config.get_text_config(decoder=True).hidden_size
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(*rows.input_ids.shape, width, generator=generator)
    return random.to(rows.input_ids.device, next(model.parameters()).dtype)


def _run(model: Any, rows: ProbeRows, hidden: Tensor, **more: Any) -> Any:
    last = num_blocks(model) - 1
    return run_blocks(
        model,
        last,
        last + 1,
        hidden=hidden,
        input_ids=rows.input_ids,
        attention_mask=rows.attention_mask,
        **more,
    )


@torch.no_grad()
def _form(model: Any, rows: ProbeRows, hidden: Tensor) -> HeadForm:
    head = ChunkedHead(model, "plain", _CHUNK)
    logits = _run(model, rows, hidden).logits
    plain = head.module(head.hidden(lambda: _run(model, rows, hidden)))
    same = plain.shape == logits.shape and torch.equal(plain.float(), logits.float())
    return "plain" if same else "own"


def _compare(model: Any, rows: ProbeRows, hidden: Tensor, head: ChunkedHead) -> str:
    labels = rows.labels.clone()
    labels[:, 3::4] = IGNORE
    some = replace(rows, labels=labels)
    eps = 1e-5 if hidden.dtype is torch.float32 else 8 * torch.finfo(hidden.dtype).eps
    for loss_tokens in (0, _LOSS_TOKENS):
        more = {"num_items_in_batch": torch.tensor(loss_tokens, device=labels.device)} if loss_tokens else {}
        entering = hidden.clone().requires_grad_()
        forward = partial(_run, model, rows, entering)
        with torch.enable_grad():
            own = loss_of(forward(labels=labels, **more), some)
            ours = head.loss(head.hidden(forward), labels, loss_tokens)
        pairs = {"loss": (own.detach(), ours.detach())}
        pairs["gradient"] = torch.autograd.grad(own, entering)[0], torch.autograd.grad(ours, entering)[0]
        for what, (one, other) in pairs.items():
            difference = float((one.float() - other.float()).abs().max() / one.float().abs().max())
            if not difference <= eps:  # also NaN
                return f"in chunks the {what} differs by {difference:.3g} relative"
    return ""
