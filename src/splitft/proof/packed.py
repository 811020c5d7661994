"""Prove that samples one after another in a row get what they get padded, at the cuts in use. (ours)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitft.common.text import one_line
from splitft.errors import ModelError
from splitft.model.attention import attend_samples_apart
from splitft.model.head import IGNORE, shifted
from splitft.model.layout import BatchLayout, form_of
from splitft.model.window import eval_mode, num_blocks, run_blocks
from splitft.proof.compare import ServerInputs, compared_parameters, make_rows
from splitft.proof.trial import finite_random_model
from splitft.weights.shrink import shrink_config

_RAGGED = (5, 9, 1, 12)  # tokens of the samples
_LONG = (70, 60, 50)  # together more than a small copy has positions (shrink_rules), and each fewer
_MOST, _MOST_ROUNDED = 1e-5, 0.1  # difference relative to a tensor's length


@dataclass(frozen=True)
class _Samples:
    """Samples one after another: (tokens,) each. Some tokens have no label."""

    lengths: tuple[int, ...]
    input_ids: Tensor
    labels: Tensor


def try_padding_free(
    model: Any,
    cuts: Sequence[int],
    server_inputs: ServerInputs = "dummy_ids",
    tail: int | None = None,
    seed: int = 0,
    small: Any = None,
) -> str:
    """Return "" where samples may share a row, else what speaks against it.

    Activations, logits and loss, and the gradients at the cut and of parameters, are compared with those of
    padded rows, split at the lowest and the highest of these cuts (and at `tail`), and on a small random copy
    (`small`, or one that is made) with rows that are longer than its positions. None may differ by more than
    1e-5 of its length, a tenth in bfloat16, where the order of sums alone makes some hundredths. Nothing of a
    sample may change with the text of another. Weights, gradients and modes are left alone.
    """
    with eval_mode(model):
        for cut in sorted({min(cuts), max(cuts)}):
            if problem := _compare(model, _RAGGED, cut, tail, server_inputs, seed):
                return f"cut {cut}: {problem}"
    try:
        small = _small_copy(model, seed) if small is None else small
    except ModelError as error:
        return str(error)
    problem = _compare(small, _LONG, 1, None, server_inputs, seed)
    return f"rows longer than the model's positions: {problem}" if problem else ""


def padded_notice(reason: str) -> str:
    """Say what a person must know where padding_free is asked for and not proven."""
    return f"rows are padded, in spite of padding_free: {reason}"


def _small_copy(model: Any, seed: int) -> Any:
    small = finite_random_model(shrink_config(model.config), seed)
    attend_samples_apart(small)
    return small


def _samples(model: nn.Module, lengths: tuple[int, ...], seed: int) -> _Samples:
    ids = make_rows(model, "right", seed, seq=sum(lengths)).input_ids[0]
    labels = ids.clone()
    labels[3::4] = IGNORE
    return _Samples(lengths, ids, labels)


def _compare(
    model: Any, lengths: tuple[int, ...], cut: int, tail: int | None, inputs: ServerInputs, seed: int
) -> str:
    try:
        return _difference_of_forms(model, _samples(model, lengths, seed), cut, tail, inputs)
    except Exception as error:  # whatever a foreign model may raise
        return f"{type(error).__name__}: {one_line(error)}"


def _difference_of_forms(
    model: Any, samples: _Samples, cut: int, tail: int | None, inputs: ServerInputs
) -> str:
    """Compare both forms; then the flat one with itself, where the first sample says something else."""
    device = samples.input_ids.device
    padded, flat = (
        _results(model, samples, form_of(samples.lengths, device, free), cut, tail, inputs)
        for free in (False, True)
    )
    most = _MOST if padded["activations"].dtype is torch.float32 else _MOST_ROUNDED
    for name, wanted in padded.items():
        if not (difference := _difference(wanted, flat[name])) <= most:  # also not a number
            return f"{name} differ from those of padded rows by {difference:.2g} relative"
    first = samples.lengths[0]
    ids = samples.input_ids.clone()
    ids[:first] = ids[:first].roll(1)
    other = replace(samples, input_ids=ids)
    again = _results(model, other, form_of(samples.lengths, device, True), cut, tail, inputs)
    own, wanted = again["logits"][first:], flat["logits"][first:]
    bound = max(_MOST, 4 * torch.finfo(wanted.dtype).eps) * float(wanted.float().abs().max())
    if not (difference := float((own.float() - wanted.float()).abs().max())) <= bound:
        return f"a sample sees another one of its row (logits change by {difference:.2g})"
    return ""


def _results(
    model: Any, samples: _Samples, form: BatchLayout, cut: int, tail: int | None, server_inputs: ServerInputs
) -> dict[str, Tensor]:
    """Run front, trunk and, with `tail`, the last blocks, forward and back; all by (tokens, …)."""
    ids, labels, end = form.batch(samples.input_ids), form.labels(samples.labels), num_blocks(model)
    parameters = compared_parameters(model)
    told: dict[str, Any] = dict(form.inputs)
    at_server = {"input_ids": ids if server_inputs == "input_ids" else None, **told}
    with torch.enable_grad():
        front = run_blocks(model, 0, cut, input_ids=ids, **told)
        crossed = front.detach().requires_grad_()
        if tail is None or tail <= cut:
            out = run_blocks(model, cut, end, hidden=crossed, labels=labels, **at_server)
        else:
            trunk = run_blocks(model, cut, tail, hidden=crossed, **at_server)
            out = run_blocks(model, tail, end, hidden=trunk, input_ids=ids, labels=labels, **told)
        loss = out.loss if getattr(out, "loss", None) is not None else _loss(out.logits, labels)
    gradients = torch.autograd.grad(loss, [crossed, *parameters], allow_unused=True)
    found = {
        "activations": form.rows(front.detach()),
        "logits": form.rows(out.logits.detach()),
        "losses": loss.detach(),
    }
    if gradients[0] is not None:  # else the model itself passes over the blocks
        found["gradients at the cut"] = form.rows(gradients[0])
    owned = [g.flatten().float() for g in gradients[1:] if g is not None]
    return found | ({"gradients of parameters": torch.cat(owned)} if owned else {})


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1).float(), shifted(labels), ignore_index=IGNORE)


def _difference(wanted: Tensor, found: Tensor) -> float:
    if wanted.shape != found.shape:
        return math.inf
    return float((wanted.float() - found.float()).norm()) / (float(wanted.float().norm()) or 1.0)
