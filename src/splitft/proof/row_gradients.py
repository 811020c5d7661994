"""Prove that the gradients of single rows are those rows' own: no run with differential privacy goes without.

Noise and accountant presume that a row moves its own gradient alone, and that every one of them is clipped. A
hook that meets another layer than it thinks breaks that in silence, with losses that fall all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from splitft.lora.blocks import Adapter
from splitft.lora.dp.clipping import clipped_sum, row_norms
from splitft.model.row_gradients import row_gradients
from splitft.model.split_model import SplitModel, StepId
from splitft.model.window import eval_mode
from splitft.proof.harness import (
    ProbeRows,
    difference,
    kept_random_state,
    make_rows,
    problem_of,
    random_adapter,
    tolerance,
)

_LENGTHS = (12, 4, 7, 9)  # tokens of the rows
_UNBOUNDED = 1e12
_CALM = StepId("proof", 0, 0, 0, train=False)  # without dropout, which draws by the shape of a batch


def prove_row_gradients(model: SplitModel, seed: int = 0) -> str:
    """Return an empty string where rows have gradients of their own, else the reason why not.

    With random adapters on the model itself: each row's gradient in a batch is that of the row alone, by
    plain autograd; with a bound that clips nothing their sum is the gradient of the plain batch; with one
    that clips it is the sum of gradients clipped one by one. Afterwards the model computes the same bits as
    before, and no base weight was written. No gradient may differ by more than 1e-5 of its length, a tenth in
    bfloat16, where the order of sums alone makes some hundredths. Leaves the model as it was, but for the
    adapters bound to it.
    """
    with kept_random_state(), eval_mode(model.model):
        return problem_of(lambda: _compare(model, seed))


def _compare(model: SplitModel, seed: int) -> str:
    rows = make_rows(model.model, _LENGTHS, seed=seed).with_gaps()
    adapter = random_adapter(model.slots.layout, seed, model.device, trained=True)
    trained = [tensor for block in adapter.values() for tensor in block.values()]
    written = [(name, p._version) for name, p in model.model.named_parameters() if ".lora_" not in name]
    before = _logits(model, rows, adapter)
    most = tolerance(next(model.model.parameters()).dtype, 1e-5, 12.8)

    # Each row in the batch beside the row alone.
    found = row_gradients(
        model, adapter, _CALM, labels=rows.labels, input_ids=rows.input_ids, **rows.inputs
    ).gradients
    alone = [_alone(model, rows, place, adapter, trained) for place in range(len(_LENGTHS))]
    for place, own in enumerate(alone):
        if (apart := difference(_flat(own), _flat([g[place] for g in found]), order=2)) > most:
            return (
                f"the gradient of a row in a batch differs by {apart:.2g} relative from that of the row alone"
            )

    # Their sum beside the plain batch's gradient, then clipped ones beside those clipped one by one.
    plain = _plain_batch(model, rows, adapter, trained)
    if (apart := difference(_flat(plain), _flat(clipped_sum(found, _UNBOUNDED)), order=2)) > most:
        return f"the sum of all rows' gradients differs by {apart:.2g} relative from the batch's own"
    bound = float(row_norms(found).median())
    wanted = sum(_flat(own) * min(1.0, bound / float(_flat(own).norm())) for own in alone)
    assert isinstance(wanted, Tensor)
    if (apart := difference(wanted, _flat(clipped_sum(found, bound)), order=2)) > most:
        return f"the sum of clipped gradients differs by {apart:.2g} relative from rows clipped one by one"

    # The model is as it was.
    if not torch.equal(before, _logits(model, rows, adapter)):
        return "the model computes something else after gradients of single rows"
    now = dict(model.model.named_parameters())
    changed = [
        name for name, version in written if now[name]._version != version or now[name].grad is not None
    ]
    return f"gradients of single rows have written into {', '.join(changed[:3])}" if changed else ""


@torch.no_grad()
def _logits(model: SplitModel, rows: ProbeRows, adapter: Adapter) -> Tensor:
    model.bind(adapter)
    logits: Tensor = model.run(0, model.num_blocks, _CALM, input_ids=rows.input_ids, **rows.inputs).logits
    return rows.pick(logits)


def _alone(
    model: SplitModel, rows: ProbeRows, place: int, adapter: Adapter, trained: Sequence[Tensor]
) -> list[Tensor]:
    """Return the gradients of a row that is a batch by itself."""
    model.bind(adapter)
    here = (slice(place, place + 1), slice(0, rows.lengths[place]))
    inputs = {name: value[here] for name, value in rows.inputs.items()}
    loss = model.loss(
        0, _CALM, labels=rows.labels[here], loss_tokens=0, input_ids=rows.input_ids[here], **inputs
    )
    return _gradients(loss, trained)


def _plain_batch(
    model: SplitModel, rows: ProbeRows, adapter: Adapter, trained: Sequence[Tensor]
) -> list[Tensor]:
    """Return the gradients of the sum of all rows' mean losses, with one adapter for all of them."""
    model.bind(adapter)
    losses = model.losses(
        lambda: model.run(0, model.num_blocks, _CALM, input_ids=rows.input_ids, **rows.inputs),
        rows.labels,
        [1] * len(rows.lengths),
        [int((labels[1:] >= 0).sum()) for labels in rows.labels],
    )
    return _gradients(losses.sum(), trained)


def _gradients(loss: Tensor, trained: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(trained, found, strict=True)]


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([own.detach().flatten() for own in gradients])
