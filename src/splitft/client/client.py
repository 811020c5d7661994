"""The client: owns the data, runs the front (and the tail, where labels stay home), trains its adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from splitft.client.batches import MicroBatch, StepBatches
from splitft.client.held_adapter import HeldAdapter
from splitft.client.pending import InFlight, Pending
from splitft.common.state import State
from splitft.data import ClientData
from splitft.data.sample import HeldOutPart
from splitft.job.settings import TrainingSettings
from splitft.lora.optimizer import TrainedAdapter
from splitft.model.split_model import SplitModel, StepId
from splitft.wire.memory.sample_memory import SampleMemory
from splitft.wire.messages import (
    Activations,
    AdapterDown,
    AdapterUp,
    Gradients,
    HeldOut,
    Message,
    Metrics,
    OptimizerState,
    TailGradients,
    TrunkOutput,
)


class ClientRole(Protocol):
    """A client as its carrier sees it, in this process or behind a network: for the methods see `Client`."""

    name: str
    settings: TrainingSettings
    data: ClientData
    model: SplitModel
    memory: SampleMemory
    micro_batches: int

    @property
    def micro_steps(self) -> int: ...
    @property
    def ahead(self) -> int: ...
    @property
    def epsilon(self) -> float | None: ...
    def use_model(self, model: SplitModel) -> None: ...
    def receive(self, message: AdapterDown) -> OptimizerState | None: ...
    def forward(self, round_: int, step: int, micro_step: int) -> Message: ...
    def evaluate(self, round_: int, part: HeldOutPart) -> Iterator[Message]: ...
    def answer(self, message: Message) -> Message | None: ...
    def finish(self, round_: int) -> AdapterUp: ...
    def state(self) -> State: ...
    def load_state(self, state: State) -> None: ...


@dataclass(eq=False)
class Client:
    """One client of a run: a `ClientRole` for a model with a cut.

    memory: the client's end of the memory of its samples: says which ones to compute.
    """

    name: str
    data: ClientData
    model: SplitModel
    settings: TrainingSettings
    pad_token_id: InitVar[int]
    memory: SampleMemory
    micro_batches: int = field(default=1, init=False)
    epsilon: float | None = field(default=None, init=False)  # it takes no steps with differential privacy

    def __post_init__(self, pad_token_id: int) -> None:
        self._held = HeldAdapter(self.settings, self.model.num_blocks, self.model.device)
        self._batches = StepBatches(self.settings, self.name, self.data, pad_token_id, self.model.device)
        self._pending = Pending(self.name, self.settings, self._held.trained)

    @property
    def cut(self) -> int:
        return self._held.blocks.cut

    @property
    def trained(self) -> TrainedAdapter:
        """The adapters under training."""
        return self._held.trained

    @property
    def micro_steps(self) -> int:
        """Micro-batches of an optimizer step."""
        return self.settings.gradient_accumulation_steps * self.micro_batches

    @property
    def ahead(self) -> int:
        """Micro-batches that may lack their gradients when the next step begins."""
        return self._pending.steps_ahead * self.micro_steps

    def use_model(self, model: SplitModel) -> None:
        """Go on with a model that holds other blocks."""
        self.model = model

    def receive(self, message: AdapterDown) -> OptimizerState | None:
        """Take the cut and the adapters of the coming round (or evaluation).

        Return the optimizer state of blocks that leave the client with a lower cut.
        """
        self.micro_batches = message.micro_batches
        self._pending.clear()
        return self._held.receive(message, self.model.slots.layout)

    def forward(self, round_: int, step: int, micro_step: int) -> Message:
        """Run the front on the next micro-batch; return its activations."""
        if micro_step == 0:
            self._pending.start_step(step, self._held.blocks)
        batch = self._batches.micro_batch(micro_step, self.micro_batches)
        place = StepId(self.name, round_, step, micro_step, train=True)
        self.model.bind(self._pending.weights)

        # The whole batch, or the samples that the server lacks.
        missing = self.memory.missing(batch.samples, batch.lengths)
        if missing is None:
            with torch.set_grad_enabled(self.settings.train_front):
                hidden = self._front(batch, place)
            rows, sent = batch.layout.rows(hidden.detach()), batch
        else:
            hidden = rows = self._alone(batch, missing, place)
            sent = batch.only(missing)
        self._pending.add(InFlight(place, batch, hidden, self._pending.weights))
        return self._activations(place, batch, rows, sent)

    def evaluate(self, round_: int, part: HeldOutPart) -> Iterator[Message]:
        """Yield the activations of held-out rows, batch by batch, with the adapter as handed out.

        Their ids instead, where the server evaluates by itself.
        """
        for number, batch in self._batches.held_out(part):
            if self.settings.evaluates_at_server:
                yield HeldOut(round_, number, batch.lengths, batch.id_rows, batch.label_rows)
                continue
            place = StepId(self.name, round_, number, 0, train=False)
            self.model.bind(self._held.handed_out)
            with torch.no_grad():
                hidden = self._front(batch, place)
            self._pending.add(InFlight(place, batch, hidden, {}))
            yield self._activations(place, batch, batch.layout.rows(hidden), batch)

    def answer(self, message: Message) -> Message | None:
        """Take a message that came down; return the next one that goes up. None: the batch is done."""
        match message:
            case TrunkOutput(train=True):
                return self._tail_gradients(message)
            case TrunkOutput(train=False):
                return self._tail_metrics(message)
            case Gradients():
                self._backward(message)
                return None
            case Metrics():
                self._pending.drop_oldest()
                return None
            case _:
                raise ValueError(f"a client cannot take {type(message).__name__}")

    def finish(self, round_: int) -> AdapterUp:
        """Return the adapters trained in this round."""
        self._pending.finish(self._held.blocks)
        return self._held.update(round_, self._pending.take_norms())

    def state(self) -> State:
        """Return all that outlasts a round, as a checkpoint holds it."""
        return self._held.state() | {"stream": self._batches.state()}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`. Raises DataError where it is of other data."""
        self._batches.load_state(state["stream"])
        self._held.load_state(state)
        self._pending.clear()

    def _front(self, batch: MicroBatch, place: StepId) -> Tensor:
        hidden: Tensor = self.model.run(0, self.cut, place, **batch.inputs)
        return hidden

    def _alone(self, batch: MicroBatch, places: Sequence[int], place: StepId) -> Tensor:
        """Run the frozen front on single samples, without dropout; return their rows.

        A sample's activations are then the same in whatever batch it comes first.
        """
        calm = StepId(place.client, place.round, place.step, place.micro_step, train=False)
        rows: list[Tensor] = []
        with torch.no_grad():
            for number in places:
                alone = batch.alone(number)
                rows.append(alone.layout.rows(self._front(alone, calm)))
        return torch.cat(rows) if rows else torch.empty(0, device=self.model.device)

    def _activations(self, place: StepId, batch: MicroBatch, rows: Tensor, sent: MicroBatch) -> Activations:
        """Return the message of a batch, with (tokens, hidden) rows of the samples that are sent."""
        first = place.train and place.micro_step == 0
        return Activations(
            round=place.round,
            step=place.step,
            micro_step=place.micro_step,
            train=place.train,
            lengths=batch.lengths,
            hidden=rows,
            labels=sent.label_rows if self.settings.labels == "server" else None,
            input_ids=sent.id_rows if self.model.server_inputs == "input_ids" else None,
            loss_tokens=batch.loss_tokens,
            grad_norms=self._pending.take_norms() if first else None,
            samples=batch.samples,
            batch_tokens=batch.batch_tokens,
        )

    def _tail_gradients(self, message: TrunkOutput) -> TailGradients:
        """Run the tail and the loss, and go back to where the tail begins."""
        now = self._pending.at_tail(message)
        entering = laid_out(now, message.hidden, self.model.width).requires_grad_()
        self.model.bind(now.weights)
        loss = self.model.loss(
            self._held.blocks.tail.start,
            now.place,
            hidden=entering,
            labels=now.batch.labels,
            loss_tokens=now.batch.loss_tokens,
            **now.batch.inputs,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        assert entering.grad is not None
        return TailGradients(
            round=now.place.round,
            step=now.place.step,
            micro_step=now.place.micro_step,
            loss=loss.item(),
            loss_tokens=now.batch.loss_tokens or now.batch.own_loss_tokens,
            gradient=now.batch.layout.rows(entering.grad),
        )

    def _tail_metrics(self, message: TrunkOutput) -> Metrics:
        """Run the tail on held-out rows."""
        now = self._pending.take(message)
        self.model.bind(self._held.handed_out)
        hidden = laid_out(now, message.hidden, self.model.width)
        return metrics(self.model, self._held.blocks.tail.start, now.place, now.batch, hidden=hidden)

    def _backward(self, message: Gradients) -> None:
        """Go back through the front; after a step's last micro-batch its gradients are complete."""
        now = self._pending.take(message)
        if self.settings.labels == "client" and not now.tail_done:
            raise ValueError(f"gradients of step {message.step} came before its trunk output")
        self.model.bind(now.weights)  # blocks recomputed by gradient checkpointing read them again
        if now.hidden.requires_grad:  # not where no block of the front has a target module
            gradient = laid_out(now, message.gradient, self.model.width).to(now.hidden.dtype)
            torch.autograd.backward([now.hidden], [gradient])
        if now.place.micro_step + 1 == self.micro_steps:
            check_norms(message.grad_norms, expected=self.settings.max_grad_norm > 0)
            self._pending.complete(now, message.grad_norms, self._held.blocks)


def laid_out(now: InFlight, rows: Tensor, width: int) -> Tensor:
    """Return a batch's rows that came down, laid out. Raises ValueError where they are not its rows."""
    each = now.hidden.shape[2:] if now.hidden.ndim > 2 else (width,)
    shape = (sum(now.batch.lengths), *each)
    if rows.shape != shape or not rows.is_floating_point():
        raise ValueError(f"rows of {rows.dtype} {tuple(rows.shape)}, not {shape}")
    return now.batch.layout.batch(rows)


def check_norms(norms: Tensor | None, *, expected: bool) -> None:
    """Raise ValueError where a trunk's gradient norms are none."""
    if (norms is not None) != expected:
        raise ValueError("gradient norms are missing" if expected else "gradient norms that are not used")
    if norms is not None and (norms.dtype is not torch.float32 or norms.ndim != 1):
        raise ValueError(f"gradient norms of {norms.dtype} {tuple(norms.shape)}")


def metrics(model: SplitModel, start: int, place: StepId, batch: MicroBatch, **hidden: Tensor) -> Metrics:
    """Return the sums over held-out rows, from block `start` on."""
    inputs: dict[str, Any] = {**batch.inputs, **hidden}
    labels, own = batch.labels, batch.own_labels
    layout, lengths = batch.layout, batch.lengths
    return model.metrics(start, place, layout=layout, lengths=lengths, labels=labels, own=own, **inputs)
