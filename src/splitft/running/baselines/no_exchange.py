"""Runs without an exchange: `method: local_only`, and `method: centralized` as if all rows were in one place.

In each local step, trainers take one optimizer step for every member of the round: with local_only every
member itself, on its own rows; with centralized one trainer, on the pooled rows. The cost of moving the text
there is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from splitft.common.failpoints import failpoint
from splitft.common.state import State
from splitft.devices.clock import VirtualClock
from splitft.devices.simulate import RoundTimes
from splitft.engines.local import LocalCohort
from splitft.job import Job
from splitft.lora.blocks import Adapter
from splitft.model.split_model import StepId
from splitft.running.baselines.whole import WholeClient
from splitft.server.served import Sums, taken
from splitft.wire.ledger import Ledger
from splitft.wire.messages import AdapterDown, AdapterUp, LocalLoss, Message, Metrics, OptimizerState

POOLED = "all data"  # name of the trainer of the pooled rows


class NoExchange(LocalCohort):
    """Clients with whole models in this process; nothing is sent.

    Args:
        clients: Evaluate their held-out rows, and train their own rows.
        adapter: The adapter that all start from.
        pooled: Trains all rows in their place.
    """

    def __init__(
        self,
        clients: Sequence[WholeClient],
        job: Job,
        ledger: Ledger,
        clock: VirtualClock | None,
        present: Callable[[int], Sequence[str]] | None,
        adapter: Adapter,
        pooled: WholeClient | None = None,
    ) -> None:
        super().__init__(clients, job, job, ledger, clock, present)
        self._whole = {client.name: client for client in clients}
        self._trainers = {client.name: pooled or client for client in clients}
        self._distinct = {trainer.name: trainer for trainer in self._trainers.values()}
        for trainer in self._distinct.values():
            trainer.start(adapter)

    def train(self, members: Sequence[str], round_: int, *, together: bool) -> Iterator[dict[str, Message]]:
        """Take the local steps; yield the loss of every micro-batch."""
        taken = Counter[str]()
        trainers = [self._trainers[name] for name in members]
        for step in range(trainers[0].settings.local_steps if trainers else 0):
            for trainer in trainers:
                for micro_step in range(trainer.micro_steps):
                    place = StepId(trainer.name, round_, taken[trainer.name], micro_step, train=True)
                    loss = trainer.train_step(place, step)
                    self._count(trainer.name, "up", loss)
                    yield {trainer.name: loss}
                taken[trainer.name] += 1

    def evaluate(self, members: Sequence[str], round_: int) -> Iterator[dict[str, Message]]:
        """Evaluate each client's rows with its trainer's adapter."""
        for name in members:
            for message in self._whole[name].evaluate(round_, self._trainers[name].adapter):
                yield {name: message}

    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]:
        """Nothing is gathered."""
        return {}

    def times(self, members: Sequence[str]) -> RoundTimes | None:
        """Return the time of the round on the trainers' devices; None without devices."""
        return super().times(list(dict.fromkeys(self._trainers[name].name for name in members)))

    def adapters(self) -> dict[str, Adapter]:
        """Return {folder in the run's: adapter}: the pooled trainer's, or one for every client."""
        if POOLED in self._distinct:
            return {"adapter": self._distinct[POOLED].adapter}
        return {f"adapters/{name}": trainer.adapter for name, trainer in self._distinct.items()}

    def state(self) -> State:
        """Return the trainers' state, and the clock's, as a checkpoint holds them."""
        return {
            "trainers": {name: trainer.state() for name, trainer in self._distinct.items()},
            "clock": self._clock.state() if self._clock else None,
        }

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`. Raises DataError where it is of other data."""
        for name, trainer in self._distinct.items():
            trainer.load_state(state["trainers"][name])
        if self._clock:
            self._clock.load_state(state["clock"])


class Books:
    """A `ServerRole` without trunks and adapters: adds up losses and sums over held-out rows."""

    def __init__(self) -> None:
        self._sums = Sums()

    def step(self, messages: Mapping[str, Message]) -> dict[str, Message]:
        """Count messages; none is answered."""
        failpoint("server.step")
        for name, message in messages.items():
            if isinstance(message, LocalLoss):
                self._sums.add_loss(name, message.loss, message.loss_tokens, message.micro_step)
            if isinstance(message, Metrics):
                self._sums.add_metrics(name, message)
        return {}

    def training_losses(self) -> dict[str, tuple[float, int]]:
        """Return (sum of token losses, tokens) of each trainer since the last call."""
        return taken(self._sums.losses)

    def take_metrics(self) -> dict[str, Metrics]:
        """Return the sums over each client's held-out rows since the last call."""
        return taken(self._sums.metrics)

    def hand_out(
        self, round_: int, cuts: Mapping[str, int], *, evaluate: bool = False
    ) -> dict[str, AdapterDown]:
        return {}

    def take_moments(self, states: Mapping[str, OptimizerState]) -> None: ...
    def gather(self, updates: Mapping[str, AdapterUp]) -> None: ...
    def aggregate(self) -> None: ...
    def truncation_errors(self) -> dict[int, float]:
        return {}

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None: ...
