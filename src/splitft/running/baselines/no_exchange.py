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
from splitft.data.estimates import HeldOutRows
from splitft.devices.clock import VirtualClock
from splitft.devices.simulate import RoundTimes
from splitft.engines.held_out import HeldOutSamples
from splitft.engines.local import InProcess, check_finite
from splitft.job.settings import EvaluationSettings
from splitft.lora.blocks import Adapter
from splitft.model.split_model import StepId
from splitft.running.baselines.whole import WholeClient
from splitft.server.answers import Sums, taken
from splitft.server.average import check_adapter
from splitft.wire.messages import AdapterDown, AdapterUp, LocalLoss, Message, Metrics, OptimizerState

POOLED = "all data"  # name of the trainer of the pooled rows


class NoExchange(InProcess):
    """A `CohortRole` of whole models in this process; nothing is sent.

    Args:
        clients: Evaluate their held-out rows, and train their own rows.
        adapter: The adapter that all start from.
        job: The rows of evaluations.
        pooled: Trains all rows in their place.
        present: Clients whose device is there in a round; None: all.
    """

    def __init__(
        self,
        clients: Sequence[WholeClient],
        adapter: Adapter,
        job: EvaluationSettings,
        pooled: WholeClient | None = None,
        clock: VirtualClock | None = None,
        present: Callable[[int], Sequence[str]] | None = None,
    ) -> None:
        self.names = [client.name for client in clients]
        self._clients = {client.name: client for client in clients}
        self._trainers = {client.name: pooled or client for client in clients}
        self._distinct = {trainer.name: trainer for trainer in self._trainers.values()}
        self._clock = clock
        self._present = present
        rows = {client.name: len(client.data.eval) for client in clients}
        self._held_out = HeldOutSamples(job, lambda: rows)
        for trainer in self._distinct.values():
            trainer.start(adapter)

    def present(self, round_: int) -> Sequence[str]:
        """Return the clients whose device is there in this round."""
        return self._present(round_) if self._present else self.names

    def reachable(self) -> Sequence[str]:
        """Return all clients: to be evaluated, they need not be on their devices."""
        return self.names

    def receive(self, adapters: Mapping[str, AdapterDown]) -> dict[str, OptimizerState]:
        """Nothing is handed out."""
        return {}

    def train(self, members: Sequence[str], round_: int, *, together: bool) -> Iterator[dict[str, Message]]:
        """Take the local steps; yield the loss of every micro-batch. Raises DivergedError."""
        taken = Counter[str]()
        trainers = [self._trainers[name] for name in members]
        for step in range(trainers[0].settings.local_steps if trainers else 0):
            for trainer in trainers:
                for micro_step in range(trainer.micro_steps):
                    place = StepId(trainer.name, round_, taken[trainer.name], micro_step, train=True)
                    loss = check_finite(trainer.name, trainer.train_step(place, step))
                    if self._clock:
                        self._clock.on_local_step(trainer.name, loss.lengths)
                    yield {trainer.name: loss}
                taken[trainer.name] += 1

    def evaluate(self, members: Sequence[str], round_: int, *, whole: bool) -> Iterator[dict[str, Message]]:
        """Evaluate each client's rows with its trainer's adapter."""
        for name in members:
            part = self._held_out.part(name, whole=whole)
            for message in self._clients[name].evaluate(round_, part, self._trainers[name].adapter):
                yield {name: check_finite(name, message)}

    @property
    def held_out(self) -> dict[str, HeldOutRows]:
        """Return the numbers of each client's held-out rows."""
        return self._held_out.rows()

    @property
    def train_rows(self) -> dict[str, int]:
        """Return the number of each client's training rows."""
        return {name: len(client.data.train) for name, client in self._clients.items()}

    def answer(self, replies: Mapping[str, Message]) -> dict[str, Message]:
        """There are no replies."""
        return {}

    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]:
        """Nothing is gathered. Raises DivergedError where a trained adapter is not finite."""
        for trainer in dict.fromkeys(self._trainers[name] for name in members):
            check_adapter(f"the adapter of {trainer.name}", trainer.adapter)
        return {}

    def times(self, members: Sequence[str]) -> RoundTimes | None:
        """Return the time of the round on the trainers' devices; None without devices."""
        names = list(dict.fromkeys(self._trainers[name].name for name in members))
        return self._clock.close_round(names) if self._clock and names else None

    def adapters(self) -> dict[str, Adapter]:
        """Return {folder in the run's: adapter}: the pooled trainer's, or one for every client."""
        if POOLED in self._distinct:
            return {"adapter": self._distinct[POOLED].adapter}
        return {f"adapters/{name}": trainer.adapter for name, trainer in self._distinct.items()}

    def save(self, rounds_done: int, *, last: bool = False) -> None:
        """The trainers' state is part of this cohort's."""

    def state(self) -> State:
        """Return the trainers' state, and the clock's, as a checkpoint holds them."""
        return {
            "trainers": {name: trainer.state() for name, trainer in self._distinct.items()},
            "clock": self._clock.state() if self._clock else None,
            "held_out": self._held_out.state(),
        }

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`. Raises DataError where it is of other data."""
        for name, trainer in self._distinct.items():
            trainer.load_state(state["trainers"][name])
        if self._clock:
            self._clock.load_state(state["clock"])
        self._held_out.load_state(state["held_out"])


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
        return self._sums.take_metrics()

    @property
    def first_metrics(self) -> dict[str, Metrics]:
        """Return the sums over each client's held-out rows in its first evaluation."""
        return dict(self._sums.first)

    def hand_out(
        self, round_: int, cuts: Mapping[str, int], *, evaluate: bool = False
    ) -> dict[str, AdapterDown]:
        return {}

    def take_moments(self, states: Mapping[str, OptimizerState]) -> None: ...
    def gather(self, updates: Mapping[str, AdapterUp]) -> None: ...
    def aggregate(self) -> Sequence[str]:
        return ()

    def accepts(self, metrics: Mapping[str, Metrics]) -> bool:
        """There is no average."""
        return True

    def truncation_errors(self) -> dict[int, float]:
        return {}

    def state(self) -> State:
        return {"first_evaluation": self._sums.state()}

    def load_state(self, state: State) -> None:
        self._sums.load_state(state["first_evaluation"])
