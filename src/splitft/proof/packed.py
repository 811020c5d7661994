"""Prove that samples one after another in a row get what they get padded, at the cuts in use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from splitft.errors import ModelError
from splitft.model.attention import attend_samples_apart
from splitft.model.layout import form_of
from splitft.model.split_model import ServerInputs
from splitft.model.window import call_model, eval_mode
from splitft.proof.attention import with_attention
from splitft.proof.compare import run_split
from splitft.proof.harness import ProbeRows, difference, make_rows, problem_of, tolerance
from splitft.proof.trial import finite_random_model
from splitft.weights.shrink import shrink_config

_Run = Callable[[ProbeRows], dict[str, Tensor]]
_RAGGED = (5, 1, 8)  # tokens of the samples
_LONG = (70, 60, 50, 4)  # together more than a small copy has positions (shrink_rules), and each fewer


def try_padding_free(
    model: Any,
    cuts: Sequence[int],
    server_inputs: ServerInputs = "dummy_ids",
    tail: int | None = None,
    seed: int = 0,
    small: Any = None,
) -> str:
    """Return an empty string where samples may share a row, else the reason why not.

    Activations, logits and loss, and the gradients at the cut and of parameters, are compared with those of
    padded rows, split at the lowest of these cuts (and at `tail`), whose parts hold every block, and on a
    small random copy (`small`, or one that is made) with rows that are longer than its positions. None may
    differ by more than 1e-5 of its length, a tenth in bfloat16, where the order of sums alone makes some
    hundredths. Nothing of a sample may change with the text of another. Weights, gradients and modes are
    left alone.
    """
    with eval_mode(model):
        rows = make_rows(model, _RAGGED, seed=seed).with_gaps()
        cut = min(cuts)
        run = partial(_results, model, cut, tail if tail and tail > cut else None, server_inputs)
        if problem := problem_of(partial(_compare, model, run, rows)):
            return f"cut {cut}: {problem}"
    try:
        small = _small_copy(model, seed) if small is None else small
    except ModelError as error:
        return str(error)
    rows = make_rows(small, _LONG, seed=seed).with_gaps()
    problem = problem_of(partial(_compare, small, partial(_results, small, 1, None, server_inputs), rows))
    return f"rows longer than the model's positions: {problem}" if problem else ""


def padded_notice(reason: str) -> str:
    """Return the notice that rows are padded although padding_free is asked for."""
    return f"rows are padded, in spite of padding_free: {reason}"


def _small_copy(model: Any, seed: int) -> Any:
    small = finite_random_model(shrink_config(model.config), seed)
    with_attention(small, attend_samples_apart, seed)
    return small


def _compare(model: Any, run: _Run, rows: ProbeRows) -> str:
    """Compare both layouts; then the packed one with itself, where the first sample says something else."""
    padded, packed = run(rows), run(_in_one_row(rows))
    most = tolerance(padded["activations"].dtype, 1e-5, 12.8)
    for name, wanted in padded.items():
        if (apart := difference(wanted, packed[name], order=2)) > most:
            return f"{name} differ from those of padded rows by {apart:.2g} relative"
    first, ids = rows.lengths[0], rows.input_ids.clone()
    ids[0, :first] = ids[0, :first].roll(1)
    other = _in_one_row(replace(rows, input_ids=ids))
    with torch.no_grad():
        again = other.pick(call_model(model, input_ids=other.input_ids, **other.inputs).logits)
    wanted, own = packed["logits"][first:], again[first:]
    if (apart := difference(wanted, own)) > tolerance(wanted.dtype, 1e-5, 4):
        return f"a sample sees another one of its row (logits change by {apart:.2g} relative)"
    return ""


def _in_one_row(rows: ProbeRows) -> ProbeRows:
    """Return padded rows packed: one row with position ids and no padding."""
    layout = form_of(rows.lengths, rows.input_ids.device, padding_free=True)
    ids, labels = layout.batch(rows.input_ids[rows.valid]), layout.labels(rows.labels[rows.valid])
    every = torch.ones_like(ids, dtype=torch.bool)
    return replace(rows, input_ids=ids, labels=labels, valid=every, inputs=layout.inputs)


def _results(
    model: Any, cut: int, tail: int | None, server_inputs: ServerInputs, rows: ProbeRows
) -> dict[str, Tensor]:
    """Run front, trunk and, with `tail`, the last blocks, forward and back; all by (tokens, …)."""
    found = run_split(model, rows, cut, tail, server_inputs)
    at_cut = found.at_cut[cut]
    assert found.crossed is not None and at_cut is not None
    named = {
        "activations": found.crossed,
        "logits": found.logits,
        "losses": found.loss,
        "gradients at the cut": rows.pick(at_cut),
    }
    owned = [gradient.flatten().float() for gradient in found.gradients if gradient is not None]
    return named | ({"gradients of parameters": torch.cat(owned)} if owned else {})
