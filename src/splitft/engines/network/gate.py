"""The gate: shapes, types, counts and values of a message are checked before anything is computed with it.

Expectations follow from the session, never from the message. `MessageOrder` checks the order of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitft.data.estimates import rows_of
from splitft.engines.network.control import TICKET_BYTES
from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import Adapter, Layout, trained_specs
from splitft.lora.client_optimizer import ADAMW
from splitft.lora.moments import unpack_blocks
from splitft.lora.optimizer import NO_GRADIENT
from splitft.lora.reach import check_moments, reach_of_rounds
from splitft.model.head import IGNORE
from splitft.model.layout import mask_of, to_batch
from splitft.model.split_model import loss_token_count
from splitft.server.average import check_reach, check_sizes
from splitft.server.coordinator import Holding
from splitft.wire.channel import Channel
from splitft.wire.messages import (
    Activations,
    AdapterUp,
    HeldOut,
    LocalLoss,
    Message,
    Metrics,
    OptimizerState,
    TailGradients,
)

LARGEST = 1e6  # root mean square of a tensor; activations and gradients stay far below
SLACK = 1 << 20
ROUNDING = 1e-3  # nats a token that a negative log-likelihood may be below zero


class NotFiniteError(ValueError):
    """A value is not finite, or far too large: the client's training diverged, or the client is broken."""


@dataclass(eq=False)
class Gate:
    """Checks messages of one run against its settings and the state of its server."""

    settings: TrainingSettings
    layout: Layout  # places of adapters in the model
    holdings: Mapping[str, Holding]  # of all clients that had a hand-out
    channels: Mapping[str, Channel]  # of all clients
    hidden_size: int
    vocab_size: int
    max_length: int
    dtype: torch.dtype  # of the base model
    needs_ids: bool  # activations come with token ids
    only_digests: bool  # adapters go to the aggregator
    adapter: Callable[[], Adapter]  # the global one, as it was handed out
    # Tokens of each client's activations, by micro-step; and of its batch under way: stated, seen.
    _tokens: dict[tuple[str, int], int] = field(default_factory=dict, init=False)
    _batches: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        job = self.settings
        self._most_rows = max(job.per_device_train_batch_size, job.per_device_eval_batch_size)
        self._most_tokens = self._most_rows * self.max_length
        self._reach = reach_of_rounds(job)

    def check(self, client: str, message: Message) -> Message:
        """Return a message unpacked. Raises ValueError, which names the field, where it is wrong."""
        if isinstance(message, Activations):
            self._lengths(message.lengths)  # of the rows that are unpacked
        message = self.channels[client].unpack(message)
        if client not in self.holdings:
            raise ValueError(f"{type(message).__name__} came before anything was handed out")
        match message:
            case Activations():
                self._activations(client, message)
            case HeldOut():
                self._held_out(message)
            case TailGradients():
                self._rows("gradient", message.gradient, self._tokens.get((client, message.micro_step), 0))
                _number("loss", message.loss)
                self._loss_tokens(message.loss_tokens, 0)
            case AdapterUp():
                self._adapter(client, message)
            case OptimizerState():
                self._moments(client, message)
            case Metrics():
                check_metrics(message, self._most_rows, self._most_tokens, len(self.settings.metrics))
            case LocalLoss():
                _number("loss", message.loss)
                self._loss_tokens(message.loss_tokens, 0)
                self._lengths(message.lengths)
                if len(message.lengths) > (most := self.settings.per_device_train_batch_size):  # its weight
                    raise ValueError(f"lengths: {len(message.lengths)} samples in a batch of {most}")
            case _:
                raise ValueError(f"{type(message).__name__} is nothing that a client sends")
        return message

    def _activations(self, client: str, message: Activations) -> None:
        tokens = self._tokens[client, message.micro_step] = self._lengths(message.lengths)
        self._parts(client, message, tokens)
        self._rows("hidden", message.hidden, tokens)
        with_loss = 0
        if (message.labels is not None) != (self.settings.labels == "server"):
            raise ValueError(f"labels: in this job they are at the {self.settings.labels}")
        if (message.input_ids is not None) != self.needs_ids:
            raise ValueError("input_ids: needed" if self.needs_ids else "input_ids: not asked for")
        for name in ("labels", "input_ids"):
            ids = getattr(message, name)
            if ids is not None:
                self._ids(name, ids, tokens)
        if message.labels is not None:
            mask = mask_of(message.lengths, message.labels.device)
            with_loss = loss_token_count(to_batch(message.labels.long(), mask, fill=IGNORE))
        parts = self.holdings[client].micro_batches
        if message.train and self.settings.gradient_accumulation_steps * parts > 1:
            self._loss_tokens(message.loss_tokens, with_loss)
        elif message.loss_tokens:
            raise ValueError(f"loss_tokens: {message.loss_tokens} where none are stated")
        follows = message.train and message.step > 0 and message.micro_step == 0
        self._norms(client, message.grad_norms, follows)

    def _held_out(self, message: HeldOut) -> None:
        tokens = self._lengths(message.lengths)
        if not self.settings.evaluates_at_server:
            raise ValueError("input_ids: of held-out rows are not asked for")
        for name in ("labels", "input_ids"):
            self._ids(name, getattr(message, name), tokens)

    def _ids(self, name: str, ids: Tensor, tokens: int) -> None:
        if ids.dtype is not torch.int32 or ids.shape != (tokens,):
            raise ValueError(f"{name}: {ids.dtype} {tuple(ids.shape)} for {tokens} tokens")
        known = ids[ids != IGNORE] if name == "labels" else ids
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < self.vocab_size:
            raise ValueError(f"{name}: an id that is not in the vocabulary")

    def _parts(self, client: str, message: Activations, tokens: int) -> None:
        """Check that a batch's stated tokens are those of its parts: its weight in a shared trunk."""
        parts = self.holdings[client].micro_batches if message.train else 1
        if parts == 1:
            if message.batch_tokens:
                raise ValueError(f"batch_tokens: {message.batch_tokens} where none are stated")
            return
        part = message.micro_step % parts
        stated, seen = self._batches.get(client, (0, 0)) if part else (message.batch_tokens, 0)
        seen += tokens
        self._batches[client] = stated, seen
        if message.batch_tokens != stated or seen > stated or (part == parts - 1 and seen != stated):
            raise ValueError(f"batch_tokens: {message.batch_tokens} where {seen} of {stated} have come")

    def _adapter(self, client: str, message: AdapterUp) -> None:
        self._norms(client, message.grad_norms, self.settings.splits_model)
        if self.only_digests:
            digests = [(values.dtype, tuple(values.shape)) for values in message.values]
            if message.blocks or digests != [(torch.uint8, (32,)), (torch.uint8, (TICKET_BYTES,))]:
                raise ValueError("values: adapters go to the aggregator, only their digest comes here")
            return
        sizes, held = [values.numel() for values in message.values], self.holdings[client].held
        check_sizes(self.settings, self.layout, held, message.blocks, sizes)
        if self.settings.secure_aggregation:
            check_masked(message)
            return
        check_adapters(message)
        if not 1 <= message.round <= self.settings.rounds:
            raise ValueError(f"AdapterUp.round: {message.round}")
        if (reach := self._reach(message.round)) is not None:
            check_reach(self.settings, self.layout, self.adapter(), held, message, reach)

    def _moments(self, client: str, message: OptimizerState) -> None:
        if self.settings.optim not in ADAMW:
            raise ValueError(f"moved: the state of optimizer {self.settings.optim} stays where it is")
        returning = set(self.holdings[client].returning)
        if len(message.moved) != len(message.moments) or not set(message.moved) <= returning:
            raise ValueError(f"moved: {list(message.moved)[:9]} where {sorted(returning)} come back")
        for values in message.moments:
            if values.dtype is not torch.float32:
                raise ValueError(f"moments: {values.dtype}")
            _finite("moments", values)
        moved = unpack_blocks(
            message.moved, message.moved_steps, message.moments, self.layout, self.settings.freeze_a
        )
        if len(moved) != len(message.moved):
            raise ValueError("moved: a block comes twice")
        for moments in moved.values():
            check_moments(self.settings, moments)

    def _norms(self, client: str, norms: Tensor | None, expected: bool) -> None:
        expected = expected and self.settings.max_grad_norm > 0 and not self.settings.max_staleness
        if (norms is not None) != expected:
            raise ValueError("grad_norms: missing" if expected else "grad_norms: not asked for")
        if norms is None:
            return
        held = self.holdings[client].held.on_client(self.layout)
        size = sum(len(trained_specs(self.layout[block], self.settings.freeze_a)) for block in held)
        if norms.dtype is not torch.float32 or norms.shape != (size,):
            raise ValueError(f"grad_norms: {norms.dtype} {tuple(norms.shape)} where there are {size} tensors")
        _finite("grad_norms", norms)
        if bool(((norms < 0) & (norms != NO_GRADIENT)).any()):
            raise ValueError("grad_norms: a length is negative")

    def _lengths(self, lengths: tuple[int, ...]) -> int:
        if not 1 <= len(lengths) <= self._most_rows or not all(1 <= n <= self.max_length for n in lengths):
            raise ValueError(f"lengths: {len(lengths)} samples of up to {max(lengths, default=0)} tokens")
        return sum(lengths)

    def _loss_tokens(self, stated: int, least: int) -> None:
        if not max(1, least) <= stated <= self._most_tokens * self.settings.gradient_accumulation_steps:
            raise ValueError(f"loss_tokens: {stated}")

    def _rows(self, name: str, tensor: Tensor, tokens: int) -> None:
        if tensor.shape != (tokens, self.hidden_size):
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, not {(tokens, self.hidden_size)}")
        if tensor.dtype not in (self.dtype, torch.float32):  # some models sum in float32
            raise ValueError(f"{name}: {tensor.dtype} where it is {self.dtype}")
        _finite(name, tensor)


def check_metrics(message: Metrics, most_rows: int, most_tokens: int, own: int) -> None:
    """Raise ValueError where sums over held-out rows are none that a model can have.

    Args:
        most_rows, most_tokens: Of a batch.
        own: Number of the job's own metrics.
    """
    # The sums, as far as no model can have others; it cannot be seen whether they are true.
    _number("nll", message.nll)
    if not message.nll >= -ROUNDING * message.tokens:
        raise ValueError(f"nll: {message.nll} over {message.tokens} tokens; no likelihood is above 1")
    for right, all_ in (("correct", "tokens"), ("paper_correct", "paper_tokens")):
        most = getattr(message, all_)
        if not 0 <= getattr(message, right) <= most <= most_tokens:
            raise ValueError(f"{right}: {getattr(message, right)} of {most} tokens")
    # Those of rows are there, finite, and add up to those of the batch.
    for name, total in (("nll", message.nll), ("correct", message.correct), ("tokens", message.tokens)):
        rows = getattr(message, f"row_{name}")
        if rows is None or rows.dtype is not torch.float32 or rows.ndim != 1:
            raise ValueError(f"row_{name}: no vector of float32")
        _finite(f"row_{name}", rows)
        if not 1 <= len(rows) <= most_rows or len(rows) != rows_of(message):
            raise ValueError(f"row_{name}: {len(rows)} rows")
        if abs(float(rows.double().sum()) - total) > 1e-3 * max(1.0, abs(total)):
            raise ValueError(f"row_{name}: they add up to {float(rows.sum())}, not to {total}")
    nll, correct, tokens = (getattr(message, f"row_{name}") for name in ("nll", "correct", "tokens"))
    if bool(((nll < -ROUNDING * tokens) | (correct < 0) | (correct > tokens)).any()):
        raise ValueError("row_nll, row_correct: sums that no row has")
    # The job's own metrics.
    sums = message.own_sums
    if sums is None and not own:
        return
    if sums is None or sums.dtype is not torch.float64 or sums.shape != (own,):
        raise ValueError(f"own_sums: no vector of {own} numbers")
    _finite("own_sums", sums)


def check_adapters(message: AdapterUp) -> None:
    """Raise ValueError where an update's values are no vectors of finite float32 numbers."""
    for values in message.values:
        if values.dtype is not torch.float32 or values.ndim != 1:
            raise ValueError(f"values: {values.dtype} of shape {tuple(values.shape)}")
        _finite("values", values)


def check_masked(message: AdapterUp) -> None:
    """Raise ValueError where a masked update's values are no vectors of int32; more cannot be seen."""
    for values in message.values:
        if values.dtype is not torch.int32 or values.ndim != 1:
            raise ValueError(f"values: {values.dtype} of shape {tuple(values.shape)} where they are masked")


def _finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError where values are not finite, or too large: one norm shows both."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name}: {tensor.dtype} is no floating-point type")
    if tensor.numel():
        wide = torch.float64 if tensor.dtype is torch.float64 else torch.float32
        norm = float(torch.linalg.vector_norm(tensor.flatten(), dtype=wide))
        if not norm <= LARGEST * tensor.numel() ** 0.5:
            raise NotFiniteError(f"{name}: its values are not finite, or far too large (norm {norm:.3g})")


def _number(name: str, value: float) -> None:
    if not abs(value) <= 1e9:
        raise NotFiniteError(f"{name}: {value} is not finite, or far too large")
