"""The client: owns the data, runs the front (and the tail, where labels stay home), trains its adapters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from splitft.common.state import State
from splitft.data import Batch, ClientData, collate, split_rows, train_stream
from splitft.job import Job
from splitft.lora.basis import Basis, unstack_basis
from splitft.lora.blocks import (
    Adapter,
    flatten,
    narrow_a,
    resize,
    to_device,
    trained_specs,
    trained_tensors,
    unflatten,
)
from splitft.lora.moments import pack_blocks, unpack_blocks
from splitft.lora.optimizer import (
    TrainedAdapter,
    Weights,
    copied,
    global_step,
    learning_rates,
    move_gradients,
    total_norm,
)
from splitft.lora.ranks import job_ranks
from splitft.model.head import IGNORE
from splitft.model.layout import BatchLayout, PaddedBatch, form_of
from splitft.model.split_model import SplitModel, StepId, loss_token_count
from splitft.wire.messages import (
    Activations,
    AdapterDown,
    AdapterUp,
    Gradients,
    Message,
    Metrics,
    OptimizerState,
    TailGradients,
    TrunkOutput,
)


@dataclass
class _InFlight:
    """A batch between its way up and its way down."""

    place: StepId
    batch: Batch
    form: BatchLayout
    hidden: Tensor  # (batch, seq, hidden) at the cut, with its graph; rows alone where fronts are frozen
    weights: Weights  # what it was computed with
    loss_tokens: int = 0


@dataclass(frozen=True)
class _Due:
    """A step whose gradients are complete. grad_norms: of the server's part, to clip by."""

    now: _InFlight
    grad_norms: Tensor | None


@dataclass(frozen=True)
class _Chosen:
    """A micro-batch that is yet to go its way."""

    batch: Batch
    samples: tuple[int, ...]  # the numbers of its rows
    batch_tokens: int = 0  # of the batch that it is a part of; 0: it is the whole one
    loss_tokens: int = 0  # of the whole step, where it has several micro-batches


Missing = Callable[[Sequence[int], Sequence[int]], Sequence[int] | None]  # (numbers, lengths): what to send


class Client:
    """One client of a run. Raises ValueError where a message does not fit what it holds."""

    def __init__(self, name: str, data: ClientData, model: SplitModel, job: Job, pad_token_id: int) -> None:
        self.name = name
        self.data = data
        self.model = model
        self.job = job
        self.pad_token_id = pad_token_id
        self.cut = 0
        self.adapter: Adapter = {}  # what the server handed out: the global adapter of the held blocks
        self.trained = TrainedAdapter(job)
        self.stream = train_stream(job, name, data.train)
        self._learning_rate = learning_rates(job)
        self.missing: Missing = lambda samples, lengths: range(len(samples))  # which to send
        self.micro_batches = 1  # parts that each batch is sent in
        self._micro_batches: list[_Chosen] = []  # of the step under way
        self._in_flight: dict[tuple[int, int], _InFlight] = {}  # by step and micro-step
        self._weights: Weights = {}  # of the step whose batches go up
        self._due: dict[int, _Due] = {}  # by step: gradients that are complete, and not applied yet
        self._norms: Tensor | None = None

    @property
    def tail_start(self) -> int:
        return self.model.num_blocks - self.job.tail_blocks

    @property
    def micro_steps(self) -> int:
        """Micro-batches of an optimizer step."""
        return self.job.gradient_accumulation_steps * self.micro_batches

    def receive(self, message: AdapterDown) -> OptimizerState | None:
        """Take the cut and the adapters for the coming round (or evaluation).

        Returns the optimizer state of blocks that leave the client with a lower cut.
        """
        self.cut, layout = message.cut, self.model.slots.layout
        self.micro_batches = message.micro_batches
        self._in_flight.clear()
        self._due.clear()
        freeze_a = self.job.aggregation == "freeze_a"
        for block, values in zip(message.blocks, message.values, strict=True):
            specs = trained_specs(layout[block], block in message.frozen)
            self.adapter[block] = self.adapter.get(block, {}) | unflatten(values.to(self.model.device), specs)
            if block in message.frozen:  # the A that is here already, at the rank of the B that came
                self.adapter[block] = narrow_a(self.adapter[block])
        held = [*range(self.cut), *range(self.tail_start, self.model.num_blocks)]
        self.adapter = {block: self.adapter[block] for block in held if block in layout}
        ranks = job_ranks(self.job, self.model.num_blocks, self.cut)
        fresh = {block: resize(values, ranks[block]) for block, values in self.adapter.items()}
        bases: dict[int, list[Basis]] = defaultdict(list)
        for block, stacked in zip(message.rebased, message.bases, strict=True):
            bases[block].append(unstack_basis(self.adapter[block], stacked))
        moved = unpack_blocks(message.moved, message.moved_steps, message.moments, layout, freeze_a)
        given_up = self.trained.load(fresh, bases, moved)
        if not given_up:
            return None
        return OptimizerState(message.round, *pack_blocks(given_up))

    def forward(self, round_: int, step: int, micro_step: int) -> Message:
        """Run the front on the next micro-batch and return what goes up.

        Its adapter has had the gradients of all steps but the last `max_staleness`, however early they came.
        """
        if micro_step == 0:
            self._apply(step - 1 - self.job.max_staleness)
            self._weights = copied(self.trained) if self.job.max_staleness else self.trained.blocks
        chosen = self._next_micro_batch(micro_step)
        batch, samples = chosen.batch, chosen.samples
        place = StepId(self.name, round_, step, micro_step, train=True)
        self.model.bind(self._weights)
        if self.job.caches_activations:
            return self._forward_missing(place, chosen)
        form = self._form(batch)
        with torch.set_grad_enabled(self.job.train_front):
            hidden = self._front(batch, form, place)
        self._in_flight[step, micro_step] = _InFlight(
            place, batch, form, hidden, self._weights, chosen.loss_tokens
        )
        message = self._activations(place, batch, form.rows(hidden.detach()), chosen)
        return replace(message, samples=samples) if self.job.sends_differences else message

    def _forward_missing(self, place: StepId, chosen: _Chosen) -> Activations:
        """Run the frozen front, without dropout, on the samples that the server lacks; each by itself.

        A sample's activations are then the same whatever batch it is first in.
        """
        calm, batch, samples = replace(place, train=False), chosen.batch, chosen.samples
        lengths = batch.lengths
        sent: list[Activations] = []
        with torch.no_grad():
            for number in self.missing(samples, lengths) or ():
                alone = batch.row(number, lengths[number])
                form = self._form(alone)
                sent.append(self._activations(calm, alone, form.rows(self._front(alone, form, calm))))
        rows = [message.hidden for message in sent]
        hidden = torch.cat(rows) if rows else torch.empty(0, device=self.model.device)
        now = _InFlight(place, batch, self._form(batch), hidden, self._weights, chosen.loss_tokens)
        self._in_flight[place.step, place.micro_step] = now
        return Activations(
            place.round,
            place.step,
            place.micro_step,
            True,
            lengths,
            hidden,
            _joined([message.labels for message in sent], self.job.labels == "server"),
            _joined([message.input_ids for message in sent], self.model.server_inputs == "input_ids"),
            chosen.loss_tokens,
            self._take_norms() if place.micro_step == 0 else None,
            samples=samples,
            batch_tokens=chosen.batch_tokens,
        )

    def evaluate(self, round_: int) -> Iterator[Message]:
        """Yield the activations of the held-out rows, batch by batch, with the adapter handed out."""
        for place, batch in self._eval_batches(round_):
            self.model.bind(self.adapter)
            form = self._form(batch)
            with torch.no_grad():
                hidden = self._front(batch, form, place)
            self._in_flight[place.step, 0] = _InFlight(place, batch, form, hidden, {})
            yield self._activations(place, batch, form.rows(hidden))

    def _eval_batches(self, round_: int) -> Iterator[tuple[StepId, Batch]]:
        """Rows of like length share a batch: the sums are the same, and little of a batch is padding."""
        size = self.job.per_device_eval_batch_size
        by_length = np.argsort(self.data.eval.lengths, kind="stable")
        for start in range(0, len(by_length), size):
            batch = collate(self.data.eval, by_length[start : start + size], self.pad_token_id)
            yield StepId(self.name, round_, start, 0, train=False), batch.to(self.model.device)

    def answer(self, message: Message) -> Message | None:
        """Take what came down and return what goes up next; None ends the exchange of this batch."""
        match message:
            case TrunkOutput(train=True):
                return self._tail_gradients(message)
            case TrunkOutput(train=False):
                return self._tail_metrics(message)
            case Gradients():
                self._backward(message)
                return None
            case Metrics():
                self._in_flight.pop(min(self._in_flight, default=(0, 0)), None)
                return None
            case _:
                raise ValueError(f"a client cannot take {type(message).__name__}")

    def finish(self, round_: int) -> AdapterUp:
        """Return the adapters trained in this round."""
        self._apply(self.job.local_steps)
        freeze_a = self.job.aggregation == "freeze_a"
        blocks = self.trained.blocks
        values = tuple(flatten(trained_tensors(block, freeze_a)) for block in blocks.values())
        return AdapterUp(round_, tuple(blocks), values, self._take_norms())

    def state(self) -> State:
        """Return all that outlasts a round, as a checkpoint holds it."""
        return {
            "cut": self.cut,
            "adapter": self.adapter,
            "trained": self.trained.state(),
            "stream": self.stream.state(),
        }

    def load_state(self, state: State) -> None:
        """Be as `state` was taken, after a round. Raises DataError where it is of other data."""
        self.stream.load_state(state["stream"])
        self.cut = state["cut"]
        self.adapter = to_device(state["adapter"], self.model.device)
        self.trained.load_state(state["trained"], self.model.device)
        self._micro_batches, self._norms = [], None
        self._in_flight.clear()
        self._due.clear()

    def _next_micro_batch(self, micro_step: int) -> _Chosen:
        if micro_step == 0:
            batches = [self._next_batch() for _ in range(self.job.gradient_accumulation_steps)]
            parts = [part for batch in batches for part in batch]
            if len(parts) > 1:
                loss_tokens = sum(loss_token_count(part.batch.labels) for part in parts)
                parts = [replace(part, loss_tokens=loss_tokens) for part in parts]
            self._micro_batches = parts
        return self._micro_batches[micro_step]

    def _next_batch(self) -> list[_Chosen]:
        rows, whole = self.data.train, next(self.stream)
        parts = split_rows(whole, rows.lengths, self.micro_batches)
        tokens = int(rows.lengths[whole].sum()) if len(parts) > 1 else 0
        return [
            _Chosen(
                collate(rows, part, self.pad_token_id).to(self.model.device), tuple(part.tolist()), tokens
            )
            for part in parts
        ]

    def _form(self, batch: Batch) -> BatchLayout:
        """How this client computes a batch."""
        if not self.job.padding_free:
            return PaddedBatch(batch.attention_mask)
        return form_of(batch.lengths, self.model.device, True)

    def _ids(self, batch: Batch, form: BatchLayout) -> Tensor:
        return form.batch(batch.rows(batch.input_ids), fill=self.pad_token_id)

    def _front(self, batch: Batch, form: BatchLayout, place: StepId) -> Tensor:
        hidden: Tensor = self.model.run(0, self.cut, place, input_ids=self._ids(batch, form), **form.inputs)
        return hidden

    def _activations(
        self, place: StepId, batch: Batch, hidden: Tensor, chosen: _Chosen | None = None
    ) -> Activations:
        """Return what goes up. hidden: (tokens, hidden)."""
        with_labels = self.job.labels == "server"
        with_ids = self.model.server_inputs == "input_ids"
        return Activations(
            place.round,
            place.step,
            place.micro_step,
            place.train,
            batch.lengths,
            hidden,
            batch.rows(batch.labels).int() if with_labels else None,
            batch.rows(batch.input_ids).int() if with_ids else None,
            chosen.loss_tokens if chosen else 0,
            self._take_norms() if place.train and place.micro_step == 0 else None,
            batch_tokens=chosen.batch_tokens if chosen else 0,
        )

    def _take_norms(self) -> Tensor | None:
        norms, self._norms = self._norms, None
        return norms

    def _tail_gradients(self, message: TrunkOutput) -> TailGradients:
        now = self._in_flight_of(message)
        batch, form = now.batch, now.form
        entering = form.batch(message.hidden).requires_grad_()
        self.model.bind(now.weights)
        loss = self.model.loss(
            self.tail_start,
            now.place,
            hidden=entering,
            input_ids=self._ids(batch, form),
            labels=form.labels(batch.rows(batch.labels)),
            loss_tokens=now.loss_tokens,
            **form.inputs,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        assert entering.grad is not None
        tokens = now.loss_tokens or loss_token_count(batch.labels)
        place = now.place
        gradient = form.rows(entering.grad)
        return TailGradients(place.round, place.step, place.micro_step, loss.item(), tokens, gradient)

    def _tail_metrics(self, message: TrunkOutput) -> Metrics:
        now = self._in_flight_of(message)
        del self._in_flight[message.step, message.micro_step]
        self.model.bind(self.adapter)
        return self._metrics(self.tail_start, now.place, now.batch, hidden=now.form.batch(message.hidden))

    def _metrics(self, start: int, place: StepId, batch: Batch, **inputs: Tensor) -> Metrics:
        """Return the sums over a batch, of which this client has computed the blocks before `start`."""
        form, labels = self._form(batch), batch.rows(batch.labels)
        return self.model.metrics(
            start,
            place,
            input_ids=self._ids(batch, form),
            labels=form.labels(labels),
            own=form.batch(labels, fill=IGNORE),
            **form.inputs,
            **inputs,
        )

    def _backward(self, message: Gradients) -> None:
        now = self._in_flight_of(message)
        del self._in_flight[message.step, message.micro_step]
        self.model.bind(now.weights)  # blocks recomputed by gradient checkpointing read them again
        if now.hidden.requires_grad:  # not where no block of the front has a target module
            gradient = now.form.batch(message.gradient).to(now.hidden.dtype)
            torch.autograd.backward([now.hidden], [gradient])
        if now.place.micro_step + 1 < self.micro_steps:
            return
        self._due[now.place.step] = _Due(now, message.grad_norms)
        if not self.job.max_staleness:
            self._apply(now.place.step)

    def _apply(self, last: int) -> None:
        """Take the optimizer steps of what is due, up to the local step `last`."""
        for number in [step for step in sorted(self._due) if step <= last]:
            due = self._due.pop(number)
            if due.now.weights is not self.trained.blocks:
                move_gradients(due.now.weights, self.trained)
            norm = None
            if self.job.max_grad_norm:
                front = self.trained.gradient_norms(range(self.cut))
                tail = self.trained.gradient_norms(range(self.tail_start, self.model.num_blocks))
                norm = total_norm([front, due.grad_norms, tail])
                if not self.job.max_staleness:  # else they would come too late for the server's own step
                    self._norms = torch.cat([front, tail])
            step = global_step(self.job, due.now.place.round, number)
            self.trained.step(self._learning_rate(step), norm)

    def _in_flight_of(self, message: TrunkOutput | Gradients) -> _InFlight:
        """Return the batch that a message answers."""
        place = message.step, message.micro_step
        if place not in self._in_flight:
            raise ValueError(f"{self.name} has no batch of step {place} under way")
        return self._in_flight[place]


def _joined(parts: Sequence[Tensor | None], expected: bool) -> Tensor | None:
    """Return ids of several samples as one tensor, None where none are sent."""
    given = [part for part in parts if part is not None]
    if not expected:
        return None
    return torch.cat(given) if given else torch.empty(0, dtype=torch.int32)
