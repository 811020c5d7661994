"""Choice of the batch size up to which clients are computed together, measured at the start."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch
from rich.console import Console

from splitft.job import Job
from splitft.lora.blocks import Adapter
from splitft.model.joined import learn_fixed, run_joined
from splitft.model.row_adapters import RowPart, bind_rows, unbind_rows
from splitft.model.split_model import SplitModel
from splitft.model.window import dummy_ids, eval_mode, run_blocks
from splitft.proof.batched import prove_batching

_ROW = 32  # tokens of a row; a client's share of the smallest batch
_MOST = 65536  # tokens
_WORTH = 1.03  # times as fast
_REPEATS = 3
_SECONDS = 6.0  # after which no larger batch is tried


def most_tokens(model: SplitModel, cuts: Sequence[int]) -> tuple[int, float]:
    """Time batches of more and more rows, each row of another client, forward and backward.

    Returns the tokens beyond which a token costs no less, by 3 % (0: a row by itself is as fast), and the
    cost of a token in a row by itself relative to theirs. Runs the blocks from the highest cut on. Stops
    where no memory is left.
    """
    started, each = time.perf_counter(), dict[int, float]()  # seconds of a token, by the tokens of a batch
    size, cut = _ROW, max(cuts)
    with eval_mode(model.model):
        while size <= _MOST and time.perf_counter() - started < _SECONDS:
            try:
                each[size] = _seconds(model, cut, size // _ROW) / size
            except torch.OutOfMemoryError:
                break
            if each[size] > _WORTH * min(each.values()):
                break
            size *= 2
    unbind_rows(model.slots)
    best = min(each.values())
    tokens = min(size for size, seconds in each.items() if seconds <= _WORTH * best)
    return tokens if tokens > _ROW else 0, each[_ROW] / each[tokens]


def _seconds(model: SplitModel, cut: int, rows: int) -> float:
    """Return the shortest time of one pass over these rows, each with its own adapter."""
    # Activations that enter at the cut, and adapters without effect.
    unbind_rows(model.slots)
    with torch.no_grad():
        hidden = run_blocks(model.model, 0, cut, input_ids=dummy_ids(model.model, rows, _ROW, model.device))
    learn_fixed(model.model, cut, hidden)
    parts = [RowPart(1, _zeros(model, cut)) for _ in range(rows)]
    wanted = [t for part in parts for block in part.adapter.values() for t in block.values()]
    mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    bind_rows(model.slots, parts, _ROW)
    # Forward and backward, several times.
    found = []
    for _ in range(_REPEATS):
        entering = hidden.detach().requires_grad_()
        synchronize(hidden.device)
        started = time.perf_counter()
        forward = partial(run_joined, model.model, {cut: entering}, model.num_blocks, attention_mask=mask)
        losses = model.losses(forward, mask, [1] * rows, [_ROW] * rows)
        torch.autograd.grad(losses.sum(), [entering, *wanted], allow_unused=True)
        synchronize(hidden.device)
        found.append(time.perf_counter() - started)
    return min(found)


def _zeros(model: SplitModel, cut: int) -> Adapter:
    """Return an adapter without effect for the blocks from a cut on."""
    return {
        block: {s.name: torch.zeros(s.shape, device=model.device, requires_grad=True) for s in specs}
        for block, specs in model.slots.layout.items()
        if block >= cut
    }


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has computed everything."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def batch_tokens(job: Job, model: SplitModel, cuts: Sequence[int], console: Console) -> int:
    """Return the most tokens of a batch of several clients; 0: one client at a time.

    The proof decides that clients computed together get what each gets alone, and with
    `server_batch_tokens: auto` the measured times decide the size. The decision is printed.
    """

    def notice(text: str) -> None:
        console.print(f"the server computes {text}", highlight=False)

    # Batches that the job rules out, or the proof.
    if not job.batches_clients or not job.splits_model:
        return 0
    if job.labels == "client":
        notice("one client at a time: with labels at home each comes back with its own gradient")
        return 0
    if problem := prove_batching(model, cuts, job.seed):
        notice(f"one client at a time: {problem}")
        return 0
    # The job's own size, or the measured one.
    if isinstance(job.server_batch_tokens, int):
        notice(f"clients together, up to {job.server_batch_tokens} tokens: proven equal to one at a time")
        return job.server_batch_tokens
    tokens, gain = most_tokens(model, cuts)
    if tokens:
        notice(
            f"clients together, up to {tokens} tokens: proven, and {gain:.2f} times as fast as rows of 32 "
            "tokens by themselves"
        )
    else:
        notice("one client at a time: rows of 32 tokens are as fast by themselves")
    return tokens
