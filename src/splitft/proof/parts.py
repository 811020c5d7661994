"""Prove that a batch computed in parts is the whole batch: no row changes what another one gets."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig

from splitft.model.window import call_model, eval_mode
from splitft.proof.harness import difference, kept_random_state, make_rows, problem_of, tolerance
from splitft.proof.trial import finite_random_model
from splitft.weights.shrink import NotBuiltError, shrink_config

_LENGTHS = (12, 4, 7)  # tokens, on both sides of a small copy's borders: windows, chunks, rotary tables


def parts_problem(config: PreTrainedConfig, seed: int = 0) -> str:
    """Return an empty string where batches may be computed in parts, else the reason why not.

    config: of the model; tried on a small copy, or taken for right where none can be built.
    """
    try:
        with kept_random_state():
            return try_parts(finite_random_model(shrink_config(config), seed), seed)
    except NotBuiltError:
        return ""


def try_parts(model: Any, seed: int = 0) -> str:
    """Return the same of a small model."""
    with eval_mode(model), torch.no_grad():
        return problem_of(lambda: _compare(model, seed))


def _compare(model: Any, seed: int) -> str:
    rows = make_rows(model, _LENGTHS, seed=seed)
    together = call_model(model, input_ids=rows.input_ids, **rows.inputs).logits
    for row, length in enumerate(_LENGTHS):
        own = call_model(model, input_ids=rows.input_ids[row : row + 1, :length]).logits[0]
        apart = difference(own, together[row, :length])
        if apart > tolerance(own.dtype, 1e-5, 4):
            return f"a row of a batch changes what another one gets (logits by {apart:.2g} relative)"
    return ""
