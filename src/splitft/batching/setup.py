"""Whether, and up to how many tokens, a run's server computes several clients at once. (ours)"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from splitft.batching.calibrate import most_tokens
from splitft.job import Job
from splitft.model.split_model import SplitModel
from splitft.proof.batched import prove_batching


def batch_tokens(job: Job, model: SplitModel, cuts: Sequence[int], notice: Callable[[str], None]) -> int:
    """Return the most tokens of a batch of several clients; 0: one client at a time.

    cuts: of the clients. What decides is told as a notice: the proof that clients computed together get what
    each gets alone, and with `server_batch_tokens: auto` what a step takes either way.
    """
    if not job.server_batch_tokens or not job.splits_model:
        return 0
    if job.labels == "client":
        notice("one client at a time: with labels at home each comes back with its own gradient")
        return 0
    if problem := prove_batching(model, cuts, job.seed):
        notice(f"one client at a time: {problem}")
        return 0
    if job.server_batch_tokens != "auto":
        notice(f"clients together, up to {job.server_batch_tokens} tokens: proven equal to one at a time")
        return job.server_batch_tokens
    found = most_tokens(model, cuts)
    if found.tokens:
        notice(
            f"clients together, up to {found.tokens} tokens: proven, and {found.gain:.2f} times as fast as "
            "rows of 32 tokens by themselves"
        )
    else:
        notice("one client at a time: rows of 32 tokens are as fast by themselves")
    return found.tokens
