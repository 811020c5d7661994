"""The closed set of messages between clients and server; `wire` has their form on the wire. (ours)"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from splitft.wire.encoding import Wire


@dataclass(frozen=True)
class AdapterDown:
    """Server to client: its cut, the adapters that it lacks of blocks it holds, and what goes with them.

    values: one flat float32 tensor a block (adapters.flatten); of the blocks in `frozen` B alone.
    rebased, bases: changes of basis since the client last had a block, oldest first; (pairs, rank, rank).
    moved, moved_steps, moments: optimizer state of blocks that came to the client with a higher cut.
    """

    round: int
    cut: int
    blocks: tuple[int, ...]
    frozen: tuple[int, ...]
    values: tuple[Tensor, ...]
    rebased: tuple[int, ...] = ()
    bases: tuple[Tensor, ...] = ()
    moved: tuple[int, ...] = ()
    moved_steps: tuple[int, ...] = ()  # of every tensor, block after block
    moments: tuple[Tensor, ...] = ()  # one flat float32 tensor a block (moments.pack)
    micro_batches: int = 1


@dataclass(frozen=True)
class OptimizerState:
    """Client to server: the optimizer state of blocks that left the client with a lower cut."""

    round: int
    moved: tuple[int, ...]
    moved_steps: tuple[int, ...]
    moments: tuple[Tensor, ...]


@dataclass(frozen=True)
class AdapterUp:
    """Client to server: what it trained of its blocks, and the gradient norms of its last local step."""

    round: int
    blocks: tuple[int, ...]
    values: tuple[Tensor, ...]
    grad_norms: Tensor | None = None  # (trained tensors,) float32


@dataclass(frozen=True)
class Activations:
    """Client to server: what leaves the front ("smashed data"), valid rows only.

    hidden: (tokens, hidden), the rows of all samples one after another; lengths: tokens of each sample.
    labels: (tokens,) int32 with -100 where there is no loss, only with `labels: server`.
    input_ids: (tokens,) int32, only for models whose later blocks read them.
    loss_tokens: tokens with loss in the whole optimizer step, stated when it spans several micro-batches.
    grad_norms: gradient norms of the client's tensors in the previous step, for clipping over all parts;
    -1: a tensor without a gradient.
    packed: on its way, what a codec made of the rows (`codecs.channel`); then hidden is empty. So below.
    batch_tokens: tokens of the whole batch, stated when it is sent in several parts.
    samples: where the server keeps activations, the client's number of each sample; then, on the way, only
    those that the server lacks are in hidden, labels and input_ids.
    """

    round: int
    step: int
    micro_step: int
    train: bool
    lengths: tuple[int, ...]
    hidden: Tensor
    labels: Tensor | None = None
    input_ids: Tensor | None = None
    loss_tokens: int = 0
    grad_norms: Tensor | None = None
    packed: tuple[Tensor, ...] = ()
    samples: tuple[int, ...] = ()
    batch_tokens: int = 0


@dataclass(frozen=True)
class HeldOut:
    """Client to server, once, where the server evaluates by itself: a batch of held-out rows.

    step: number of the batch's first row in the client's order; lengths: tokens of each row.
    input_ids, labels: (tokens,) int32, of all rows one after another.
    """

    round: int
    step: int
    lengths: tuple[int, ...]
    input_ids: Tensor
    labels: Tensor


@dataclass(frozen=True)
class TrunkOutput:
    """Server to client, with `labels: client`: (tokens, hidden) where the tail begins."""

    round: int
    step: int
    micro_step: int
    train: bool
    hidden: Tensor
    packed: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class TailGradients:
    """Client to server, with `labels: client`: (tokens, hidden) gradient at the tail's input."""

    round: int
    step: int
    micro_step: int
    loss: float
    loss_tokens: int
    gradient: Tensor
    packed: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Gradients:
    """Server to client: (tokens, hidden) gradient of the loss at the cut; none where fronts are frozen."""

    round: int
    step: int
    micro_step: int
    loss: float
    gradient: Tensor
    grad_norms: Tensor | None = None  # (trained tensors of the trunk,) float32
    packed: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Metrics:
    """Sums over evaluation tokens: negative log-likelihood (nats), right next tokens, tokens.

    paper_correct, paper_tokens: the same for the paper's figure, which compares the prediction for position
    t + 1 with token t. Counts of right tokens are floats, so that a message's size does not tell them.
    row_nll, row_correct, row_tokens: (rows,) float32, the first three of each row, for intervals.
    own_sums: (metrics,) float64 of the job's `metrics`, each a sum over the tokens.
    """

    round: int
    nll: float
    correct: float
    tokens: int
    paper_correct: float
    paper_tokens: int
    row_nll: Tensor | None = None
    row_correct: Tensor | None = None
    row_tokens: Tensor | None = None
    own_sums: Tensor | None = None


@dataclass(frozen=True)
class LocalLoss:
    """Client to server, where whole models are trained on the clients: the loss of one micro-batch.

    lengths: tokens of each sample, their sum is the client's weight in the average; loss_tokens: those with
    loss in the whole optimizer step.
    """

    round: int
    step: int
    micro_step: int
    loss: float
    lengths: tuple[int, ...]
    loss_tokens: int


Message = (
    AdapterDown
    | OptimizerState
    | AdapterUp
    | Activations
    | HeldOut
    | TrunkOutput
    | TailGradients
    | Gradients
    | Metrics
    | LocalLoss
)

_WIRE: Wire[Message] = Wire(get_args(Message))

encode, decode, wire_size = _WIRE.encode, _WIRE.decode, _WIRE.size


def not_finite(message: Message) -> str:
    """Return which figure of a message shows that training has diverged: a loss, an adapter; empty: none."""
    match message:
        case Gradients() | TailGradients() | LocalLoss() if not math.isfinite(message.loss):
            return f"the loss of step {message.step + 1} in round {message.round} is not finite"
        case Metrics() if not math.isfinite(message.nll):
            return "the held-out loss is not finite"
        case AdapterUp() if not all_finite(message.values):
            return f"the adapter trained in round {message.round} is not finite"
        case _:
            return ""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value is NaN or infinite; of tensors without values (a plan's) none is."""
    return all(tensor.is_meta or bool(torch.isfinite(tensor).all()) for tensor in tensors)
