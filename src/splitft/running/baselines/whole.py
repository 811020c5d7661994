"""A client that holds and trains the whole model; all that remains of the split is the average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from splitft.client.batches import StepBatches
from splitft.client.client import metrics
from splitft.client.held_adapter import HeldAdapter
from splitft.client.private_steps import PrivateSteps
from splitft.common.state import State
from splitft.cuts import Decision
from splitft.data import ClientData
from splitft.data.sample import HeldOutPart
from splitft.history import RoundRecord
from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import Adapter
from splitft.lora.dp.ledger import PrivacyLedger
from splitft.lora.optimizer import LearningRates, global_step, learning_rates, total_norm
from splitft.model.split_model import SplitModel, StepId
from splitft.wire.memory.sample_memory import SampleMemory
from splitft.wire.messages import AdapterDown, AdapterUp, LocalLoss, Message, OptimizerState


class WholeClient:
    """A `ClientRole` whose cut is the end of the model: forward, loss and backward in one place.

    ledger: with it, steps are taken with differential privacy.
    """

    def __init__(
        self,
        name: str,
        data: ClientData,
        model: SplitModel,
        settings: TrainingSettings,
        pad_token_id: int,
        ledger: PrivacyLedger | None = None,
    ) -> None:
        self.name = name
        self.data = data
        self.model = model
        self.settings = settings
        self.memory = SampleMemory()
        self.micro_batches = 1
        self.ahead = 0
        self._held = HeldAdapter(settings, model.num_blocks, model.device)
        self._batches = StepBatches(settings, name, data, pad_token_id, model.device)
        self._private = None if ledger is None else PrivateSteps(self._batches, settings, ledger)
        self._learning_rate = learning_rates(settings)

    @property
    def micro_steps(self) -> int:
        """Micro-batches of an optimizer step."""
        return self.settings.gradient_accumulation_steps

    @property
    def epsilon(self) -> float | None:
        """The differential privacy that its rows have spent; None without."""
        return None if self._private is None else self._private.epsilon

    @property
    def adapter(self) -> Adapter:
        """A copy of the adapter as trained."""
        return self._held.trained.values()

    def use_model(self, model: SplitModel) -> None:
        """Go on with another model of the same blocks."""
        self.model = model

    def start(self, adapter: Adapter) -> None:
        """Start from an adapter in this process."""
        self._held.start(adapter)

    def receive(self, message: AdapterDown) -> OptimizerState | None:
        """Take the adapter of the coming round (or evaluation)."""
        return self._held.receive(message, self.model.slots.layout)

    def forward(self, round_: int, step: int, micro_step: int) -> Message:
        """Train on the next micro-batch; after the last of a step, take the optimizer's step."""
        return self.train_step(StepId(self.name, round_, step, micro_step, train=True), step)

    def train_step(self, place: StepId, step: int) -> LocalLoss:
        """Train on the next micro-batch. step: the local step that sets the learning rate."""
        if self._private is not None:
            return self._private_step(self._private, place, step)
        batch, trained = self._batches.micro_batch(place.micro_step, 1), self._held.trained
        self.model.bind(trained.blocks)
        loss = self.model.loss(0, place, labels=batch.labels, loss_tokens=batch.loss_tokens, **batch.inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        if place.micro_step + 1 == self.micro_steps:
            trained.add_penalty()
            norm = total_norm([trained.gradient_norms()]) if self.settings.max_grad_norm else None
            trained.step(self._rates(place, step), norm)
        return LocalLoss(
            round=place.round,
            step=place.step,
            micro_step=place.micro_step,
            loss=loss.item(),
            lengths=batch.lengths,
            loss_tokens=batch.loss_tokens or batch.own_loss_tokens,
        )

    def evaluate(self, round_: int, part: HeldOutPart, adapter: Adapter | None = None) -> Iterator[Message]:
        """Yield the sums over held-out rows, batch by batch. adapter: None for the one handed out."""
        for number, batch in self._batches.held_out(part):
            self.model.bind(self._held.handed_out if adapter is None else adapter)
            yield metrics(self.model, 0, StepId(self.name, round_, number, 0, train=False), batch)

    def answer(self, message: Message) -> Message | None:
        """Refuse all messages: the server has none but hand-outs for this client."""
        raise ValueError(f"a client with a whole model cannot take {type(message).__name__}")

    def finish(self, round_: int) -> AdapterUp:
        """Return the adapter trained in this round."""
        return self._held.update(round_, None)

    def state(self) -> State:
        """Return all that outlasts a round, as a checkpoint holds it."""
        state = self._held.state() | {"stream": self._batches.state()}
        return state if self._private is None else state | {"privacy": self._private.state()}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`. Raises DataError where it is of other data."""
        self._batches.load_state(state["stream"])
        self._held.load_state(state)
        if self._private is not None:
            self._private.load_state(state["privacy"])

    def _private_step(self, private: PrivateSteps, place: StepId, step: int) -> LocalLoss:
        """Train on a part of a step's rows; the penalty knows no row, and comes after the noise."""
        trained, rows = self._held.trained, private.plan.step_rows
        loss = private.compute(self.model, trained, place)
        if place.micro_step + 1 == self.micro_steps:
            trained.add_penalty()
            trained.step(self._rates(place, step), None)
        return LocalLoss(place.round, place.step, place.micro_step, loss, private.lengths, rows)

    def _rates(self, place: StepId, step: int) -> LearningRates:
        return self._learning_rate(global_step(self.settings, place.round, step))


class WholeModels:
    """A cut planner of whole models: every client holds all blocks."""

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
