"""Prove that a model predicts next tokens: no token sees a later one, and the loss is that of the next token.

Else training teaches a model to copy its input: the loss falls, and the perplexity of its text rises.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from splitft.model.head import IGNORE, shifted, token_losses
from splitft.model.window import call_model, eval_mode
from splitft.proof.harness import ProbeRows, difference, loss_of, make_rows, problem_of, tolerance

_LENGTHS = (12, 7)
_LOSS = 1e-3  # relative difference of a loss that is not the next token's: some tenths


def try_next_token(model: Any, seed: int = 0) -> str:
    """Return an empty string where the model predicts next tokens, else the reason why it does not.

    Weights, gradients and modes are left alone.
    """
    with eval_mode(model), torch.no_grad():
        rows = make_rows(model, _LENGTHS, seed=seed)
        return problem_of(lambda: _problem(model, rows))


def _problem(model: Any, rows: ProbeRows) -> str:
    out = call_model(model, input_ids=rows.input_ids, labels=rows.labels, **rows.inputs)
    # Another last token of every row: no logits of an earlier token may follow.
    last = torch.tensor(rows.lengths, device=rows.input_ids.device)[:, None] - 1
    ids = rows.input_ids.clone()
    ids.scatter_(1, last, ids[:, :1])
    earlier = replace(rows, valid=rows.valid.clone().scatter_(1, last, False))
    others = call_model(model, input_ids=ids, **rows.inputs).logits
    logits = earlier.pick(out.logits)
    if (apart := difference(logits, earlier.pick(others))) > tolerance(logits.dtype, 1e-5, 4):
        return f"a token sees later ones: it is no next-token model (logits change by {apart:.2g} relative)"
    # The model's own loss against the cross-entropy of the next token.
    own, targets = float(loss_of(out, rows)), shifted(rows.labels)
    wanted = float(token_losses(out.logits.flatten(0, 1), targets)[targets != IGNORE].mean())
    if abs(own - wanted) > _LOSS * abs(wanted):
        return f"its loss is not that of the next token: {own:.4g}, not {wanted:.4g}"
    return ""
