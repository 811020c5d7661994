"""The loss without the full logits: head and cross-entropy over a few tokens at a time.

The model's own forward is left where it calls its head. Tokens without a label are dropped there, the others
go through the head and the cross-entropy in chunks, and each chunk's gradient is computed at once: the base
is frozen, so that of the hidden states is all there is. No logits are kept, and nothing is computed twice.
A model's own treatment of its logits (a soft-cap, a scale) stays: the model gets the hidden states of a chunk
in place of those that it computed, and returns logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from splitft.errors import ModelError
from splitft.model.metrics import MetricSums
from splitft.model.window import run_no_block, set_within

HeadForm = Literal["plain", "own", "whole"]
IGNORE = -100
# Matrix products of fewer rows take other paths, whose sums come out in another order.
LEAST_ROWS = 32
# Words of the vocabulary at a time and thread. A float32 product on a CPU takes longer where the rows
# that it writes lie as far apart as a whole vocabulary. The same sums come out.
TILE = 512


@dataclass(frozen=True)
class _Visit:
    """Leave the forward at a head (no rows), or put rows in."""

    head: nn.Module
    rows: Tensor | None = None  # (tokens, hidden)


class _LeftAtHead(Exception):  # noqa: N818 - `run_blocks` lets it through, unlike `LeftAt`
    """Carries the hidden states, its argument, out of the model's forward."""


_visit: ContextVar[_Visit | None] = ContextVar("splitft_head", default=None)


def _at_head(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    visit = _visit.get()
    if visit is None or visit.head is not module:
        return None
    if visit.rows is None:
        raise _LeftAtHead(args[0])
    return (visit.rows[None], *args[1:])


class ChunkedHead:
    """A model's output head, `chunk` tokens at a time.

    form: plain, where the head module returns the logits; own, where the model's own code makes them of its
    output, as `proof.head.try_head` found. Raises ModelError where the model has no head module.
    """

    def __init__(self, model: nn.Module, form: HeadForm, chunk: int) -> None:
        head = getattr(model, "get_output_embeddings", lambda: None)()
        if not isinstance(head, nn.Module):
            raise ModelError(f"{type(model).__name__} has no output head")
        if _at_head not in head._forward_pre_hooks.values():
            head.register_forward_pre_hook(_at_head)
        self.model, self.module, self.form, self.chunk = model, head, form, chunk

    def hidden(self, forward: Callable[[], Any]) -> Tensor:
        """Call the model, and return the input of its head: (batch, seq, hidden).

        Raises ModelError where it does not call its head, or with another shape.
        """
        try:
            with set_within(_visit, _Visit(self.module)):
                forward()
        except _LeftAtHead as left:
            hidden: Tensor = left.args[0]
            if hidden.ndim != 3:
                raise ModelError(f"the head takes {tuple(hidden.shape)}, not one row a token") from None
            return hidden
        raise ModelError(f"{type(self.model).__name__} does not call its head")

    def logits(self, rows: Tensor) -> Tensor:
        """Return the logits, (tokens, vocabulary), of rows of `hidden`: (tokens, hidden)."""
        if self.form == "plain":
            if not torch.is_grad_enabled() and (linear := plain_linear(self.module)):
                return tiled_linear(rows, linear.weight, linear.bias)
            logits: Tensor = self.module(rows)
            return logits
        with set_within(_visit, _Visit(self.module, rows)):
            answer: Tensor = run_no_block(self.model, rows.device).logits
        return answer[0]

    def logits_and_pullback(self, rows: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return logits to be written over, and the map from their gradient to that of the rows."""
        if self.form == "plain" and (linear := plain_linear(self.module)):
            weight = linear.weight
            with torch.no_grad():
                return tiled_linear(rows, weight, linear.bias), lambda slope: slope @ weight
        own = rows.requires_grad_()
        with torch.enable_grad():
            logits = self.logits(own)
        # A copy: the caller may write into it, and the backward may need the original.
        return logits.detach().clone(), lambda slope: torch.autograd.grad(logits, own, slope)[0]

    def loss(self, hidden: Tensor, labels: Tensor, loss_tokens: int = 0) -> Tensor:
        """Return next-token cross-entropy, a float32 scalar, as the whole logits give it.

        hidden: (batch, seq, hidden), from `hidden`. labels: (batch, seq), not shifted.
        loss_tokens: divides the sum; 0 for the mean over this batch.
        """
        return self.losses(hidden, labels, [len(labels)], [loss_tokens])[0]

    def losses(
        self, hidden: Tensor, labels: Tensor, counts: Sequence[int], loss_tokens: Sequence[int]
    ) -> Tensor:
        """Return the loss of each part of a batch, as `loss` does of the whole.

        counts, loss_tokens: one entry for each part: its rows, and as for `loss`.
        """
        sizes = torch.tensor(counts, device=labels.device) * labels.shape[1]
        found: Tensor = _Losses.apply(hidden.flatten(0, 1), shifted(labels), self, sizes, list(loss_tokens))  # type: ignore[no-untyped-call]
        return found

    @torch.no_grad()
    def scores(
        self, hidden: Tensor, targets: Tensor, own: Tensor, metrics: MetricSums
    ) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy and the likeliest next token at each place, (tokens,) each.

        targets, own: the labels of the next token and of the place itself. Zero where neither is one.
        metrics: receives the logits of all places with a next token.
        """
        rows = hidden.flatten(0, 1)
        losses = rows.new_zeros(len(rows), dtype=torch.float32)
        predicted = torch.zeros_like(targets)
        for places in self.chunks((targets != IGNORE) | (own != IGNORE)):
            logits = self.logits(rows[places])
            losses[places] = token_losses(logits, targets[places])
            predicted[places] = logits.argmax(-1)
            scored = targets[places] != IGNORE
            metrics.add(logits[scored], targets[places][scored])
        return losses, predicted

    def chunks(self, wanted: Tensor) -> Iterator[Tensor]:
        """Yield the places of the tokens wanted, (tokens,) of bool, in chunks of nearly equal length.

        Where fewer than LEAST_ROWS are wanted, others come along.
        """
        lacking = LEAST_ROWS - int(wanted.sum())
        if lacking > 0:
            wanted = wanted | ((~wanted).cumsum(0) <= lacking)
        places = wanted.nonzero().flatten()
        yield from places.tensor_split(-(-len(places) // self.chunk)) if len(places) else ()


class _Losses(torch.autograd.Function):
    """The gradient is computed with the loss, chunk by chunk: the logits of one chunk live at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, head: ChunkedHead, sizes: Tensor, loss_tokens: list[int]
    ) -> Tensor:
        scored = targets != IGNORE
        parts = torch.split(scored, sizes.tolist())
        totals = torch.stack([
            torch.tensor(stated, device=hidden.device) if stated else part.sum()
            for stated, part in zip(loss_tokens, parts, strict=True)
        ])  # fmt: skip
        shares = totals.float().reciprocal().repeat_interleave(sizes)
        losses = hidden.new_zeros(len(hidden), dtype=torch.float32)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(hidden) if wanted else None
        buffers: _Buffers | None = None
        for places in head.chunks(scored):
            if gradient is None:
                losses[places] = token_losses(head.logits(hidden[places]), targets[places])
                continue
            logits, pullback = head.logits_and_pullback(hidden[places])
            buffers = buffers or _Buffers(logits)
            losses[places] = buffers.cross_entropy(logits, targets[places], shares[places])
            gradient[places] = pullback(logits)
        ctx.gradient, ctx.sizes = gradient, sizes
        each_part = zip(torch.split(losses, sizes.tolist()), parts, strict=True)
        return torch.stack([summed(own, part) for own, part in each_part]) / totals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        factors = grad_output.repeat_interleave(ctx.sizes)[:, None]
        return ctx.gradient * factors.to(ctx.gradient.dtype), None, None, None, None


class _Buffers:
    """Three tensors for ROWS tokens' logits, which all of a loss uses: they stay in the processor's cache.

    The operators are those of torch's cross-entropy and its backward, so that the results are, bit by bit.
    """

    ROWS = 8

    def __init__(self, logits: Tensor) -> None:
        own = logits[: self.ROWS]
        self._scores, self._log_probs = (torch.empty_like(own, dtype=torch.float32) for _ in range(2))
        self._picks = torch.zeros_like(own, dtype=torch.float32)

    def cross_entropy(self, logits: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        """Return each token's loss in float32, (tokens,).

        The logits are written over with the gradient of the sum of shares × losses.
        """
        pieces = (torch.split(t, self.ROWS) for t in (logits, targets, shares))
        return torch.cat([self._few(*piece) for piece in zip(*pieces, strict=True)])

    def _few(self, logits: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        scores, log_probs, picks = (t[: len(logits)] for t in (self._scores, self._log_probs, self._picks))
        scored, places = targets != IGNORE, targets.clamp_min(0)[:, None]
        exact = logits if logits.dtype is torch.float32 else scores.copy_(logits)
        torch.ops.aten._log_softmax.out(exact, -1, False, out=log_probs)
        losses = torch.where(scored, -log_probs.gather(1, places)[:, 0], 0.0)
        picks.scatter_(1, places, torch.where(scored, -shares, 0.0)[:, None])
        torch.ops.aten._log_softmax_backward_data.out(picks, log_probs, -1, torch.float32, out=scores)
        picks.scatter_(1, places, 0.0)
        logits.copy_(scores)
        return losses


def plain_linear(module: nn.Module) -> nn.Linear | None:
    """Return a frozen head that is a matrix product and nothing else; None where it is more."""
    plain = type(module) is nn.Linear and set(module._forward_pre_hooks.values()) <= {_at_head}
    return module if plain and not module._forward_hooks and not module.weight.requires_grad else None  # type: ignore[return-value]


def tiled_linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return rows @ weightᵀ + bias, (tokens, words), as torch's linear; by tiles where that is faster."""
    if rows.device.type != "cpu" or rows.dtype is not torch.float32 or weight.dtype is not torch.float32:
        return functional.linear(rows, weight, bias)
    out = rows.new_empty(len(rows), len(weight))
    tile = TILE * torch.get_num_threads()
    for start in range(0, len(weight), tile):
        words = slice(start, start + tile)
        if bias is None:
            torch.mm(rows, weight[words].t(), out=out[:, words])
        else:
            torch.addmm(bias[words], rows, weight[words].t(), out=out[:, words])
    return out


def shifted(labels: Tensor) -> Tensor:
    """Return the label that follows each place of (batch, seq), -100 at a row's end: (tokens,)."""
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORE).flatten()


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each token in float32, 0 where the target is -100: (tokens,)."""
    return functional.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="none")


def summed(losses: Tensor, scored: Tensor) -> Tensor:
    """Return the sum of (tokens,) losses, added in the order in which torch's cross-entropy adds them."""
    targets = torch.where(scored, 0, IGNORE)
    return functional.nll_loss(-losses[:, None], targets, ignore_index=IGNORE, reduction="sum")
