"""Guards against a proof that proves nothing: what crosses the cut must carry the result, alone.

Each returns the reason to refuse, or an empty string.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splitft.common.text import error_line
from splitft.model.config import count_blocks
from splitft.model.split_model import ServerInputs
from splitft.model.window import dummy_ids, run_blocks
from splitft.proof.compare import Result
from splitft.proof.harness import ProbeRows, difference, make_rows, tolerance


@torch.no_grad()
def vacuity(model: nn.Module, rows: ProbeRows, whole: Result, cut: int, server_inputs: ServerInputs) -> str:
    """Refuse where noise at the cut, or a block left out, would not be noticed."""
    ids, hidden = rows.at_server(server_inputs), _front(model, rows, cut)
    # The block before or after the cut, left out, must change the logits: {block: (start, what enters it)}.
    skips = {cut: (cut + 1, hidden)} if cut + 1 < count_blocks(model.config) else {}
    if cut > 1:
        skips[cut - 1] = cut, _front(model, rows, cut - 1)
    # So must noise in place of the activations, where no block before the cut has shown it.
    if cut - 1 not in skips or cut - 1 not in whole.ran:
        generator = torch.Generator().manual_seed(cut)
        noise = torch.randn(hidden.shape, generator=generator).to(hidden)
        noise *= hidden.float().std().to(hidden.dtype)
        if torch.equal(_trunk(model, rows, cut, noise, ids), whole.logits):
            return f"cut {cut}: the activations that cross the cut do not reach the output"
    for block, (start, given) in skips.items():
        if block not in whole.ran:  # the model itself passes over it, as over image blocks without an image
            continue
        try:
            without = _trunk(model, rows, start, given, ids)
        except Exception as error:  # a foreign model may raise anything
            return (
                f"cut {cut}: the blocks after block {block} need more from it than hidden states "
                f"({error_line(error)})"
            )
        if torch.equal(without, whole.logits):
            return f"block {block} can be left out and nothing changes, so a comparison proves nothing"
    return ""


@torch.no_grad()
def independence(model: nn.Module, rows: ProbeRows, whole: Result, cut: int, seed: int) -> str:
    """Refuse where the trunk's output, equal to the whole model's so far, depends on the ids in its place."""
    dummy = int(dummy_ids(model, 1, 1, rows.input_ids.device).item())
    if bool((rows.input_ids[rows.valid] == dummy).any()):
        return "the dummy ids occur in the test's rows, so a comparison proves nothing"
    hidden, others = _front(model, rows, cut), make_rows(model, rows.lengths, seed + 1).input_ids
    found = _trunk(model, rows, cut, hidden, others)
    # Without gradients some kernels round otherwise: what differs then must differ from dummy ids, too.
    if torch.equal(whole.logits, found) or torch.equal(_trunk(model, rows, cut, hidden, None), found):
        return ""
    return f"cut {cut}: the later blocks read the token ids again"


@torch.no_grad()
def padding(model: nn.Module, rows: ProbeRows, whole: Result, cut: int, server_inputs: ServerInputs) -> str:
    """Refuse where the hidden states of padding matter: only those of real tokens cross the cut in a run.

    Also refuses hidden states that are not (batch, seq, …), which cannot be cut into rows.
    """
    hidden = _front(model, rows, cut)
    if hidden.shape[:2] != rows.input_ids.shape:
        return f"cut {cut}: the hidden states {tuple(hidden.shape)} are not (batch, seq, hidden)"
    hidden = hidden.masked_fill(~rows.valid.view(*rows.valid.shape, *[1] * (hidden.ndim - 2)), 0)
    logits = _trunk(model, rows, cut, hidden, rows.at_server(server_inputs))
    apart = difference(whole.logits, logits)
    # Not bit-equal: other padding changes which tokens share an expert's matrix product.
    if apart > tolerance(logits.dtype, 1e-5, 4):
        return f"cut {cut}: padding changes the result of real tokens (logits differ by {apart:.3g} relative)"
    return ""


def _front(model: nn.Module, rows: ProbeRows, cut: int) -> Tensor:
    hidden: Tensor = run_blocks(model, 0, cut, input_ids=rows.input_ids, **rows.inputs)
    return hidden


def _trunk(model: nn.Module, rows: ProbeRows, cut: int, hidden: Tensor, ids: Tensor | None) -> Tensor:
    out = run_blocks(model, cut, count_blocks(model.config), hidden=hidden, input_ids=ids, **rows.inputs)
    return rows.pick(out.logits)
