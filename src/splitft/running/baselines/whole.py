"""A client that holds and trains the whole model; what remains of the split is the averaging."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from splitft.client.client import Client
from splitft.common.state import State
from splitft.cuts import Decision
from splitft.history import RoundRecord
from splitft.lora.optimizer import global_step, total_norm
from splitft.model.split_model import StepId, loss_token_count
from splitft.wire.messages import LocalLoss, Message


class WholeClient(Client):
    """A client whose cut is the end of the model: forward, loss and backward in one place."""

    @property
    def tail_start(self) -> int:
        return self.model.num_blocks

    def forward(self, round_: int, step: int, micro_step: int) -> Message:
        """Train on the next micro-batch; after the last of a step, take it."""
        return self.train_step(StepId(self.name, round_, step, micro_step, train=True), step)

    def train_step(self, place: StepId, step: int) -> LocalLoss:
        """Train on the next micro-batch. step: the local step that the learning rate follows."""
        chosen = self._next_micro_batch(place.micro_step)
        batch, loss_tokens = chosen.batch, chosen.loss_tokens
        self.model.bind(self.trained.blocks)
        form = self._form(batch)
        loss = self.model.loss(
            0,
            place,
            labels=form.labels(batch.rows(batch.labels)),
            loss_tokens=loss_tokens,
            input_ids=self._ids(batch, form),
            **form.inputs,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        if place.micro_step + 1 == self.job.gradient_accumulation_steps:
            norm = total_norm([self.trained.gradient_norms()]) if self.job.max_grad_norm else None
            self.trained.step(self._learning_rate(global_step(self.job, place.round, step)), norm)
        return LocalLoss(
            place.round,
            place.step,
            place.micro_step,
            loss.item(),
            batch.lengths,
            loss_tokens or loss_token_count(batch.labels),
        )

    def evaluate(self, round_: int) -> Iterator[Message]:
        """Yield the sums over the held-out rows, batch by batch."""
        for place, batch in self._eval_batches(round_):
            self.model.bind(self.adapter)
            yield self._metrics(0, place, batch)


class WholeModels:
    """In place of a cut planner: every client holds all blocks."""

    def __init__(self, names: Sequence[str], num_blocks: int) -> None:
        self.decisions: list[Decision] = []
        self._cuts = dict.fromkeys(names, num_blocks)

    def state(self) -> State:
        """There is none."""
        return {}

    def load_state(self, state: State) -> None:
        """There is none."""

    def decide(self, round_: int, last: RoundRecord | None) -> dict[str, int]:
        """Return {client: all blocks}."""
        return dict(self._cuts)
