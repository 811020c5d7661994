"""Prove that a model's own code does not mind another attention function.

Some models compare the name of their attention, and compute something else under a name that they do not
know: a sparse attention that leaves out its mask, say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from splitft.errors import ModelError
from splitft.model.config import text_config
from splitft.model.window import call_model
from splitft.proof.harness import kept_random_state, make_rows
from splitft.proof.trial import finite_random_model
from splitft.weights.shrink import shrink_config


def with_attention(model: Any, change: Callable[[Any], None], seed: int = 0) -> bool:
    """Change the attention of a model in place where a small copy answers the same; return whether it was.

    change: gives a model another attention function, or leaves it alone.
    """
    before = text_config(model)._attn_implementation
    change(model)
    if text_config(model)._attn_implementation == before:
        return False
    if _keeps_logits(model, change, seed):
        return True
    model.set_attn_implementation(before)
    return False


def _keeps_logits(model: Any, change: Callable[[Any], None], seed: int) -> bool:
    try:
        with kept_random_state(), torch.no_grad():
            small = finite_random_model(shrink_config(model.config), seed).to(model.dtype)
            rows = make_rows(small, seed=seed)
            wanted = call_model(small, input_ids=rows.input_ids, **rows.inputs).logits
            change(small)
            found = call_model(small, input_ids=rows.input_ids, **rows.inputs).logits
    except ModelError:  # no small copy: nothing is known
        return False
    return torch.equal(rows.pick(wanted), rows.pick(found))
