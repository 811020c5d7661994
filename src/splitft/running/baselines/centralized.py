"""`method: centralized`: all training rows in one place, as if nothing kept them apart.

As many rows are seen as by the clients together: each local step takes one optimizer step for every member of
the round, on batches of the pooled rows. What moving the text itself would cost is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from splitft.common.state import State
from splitft.devices.clock import RoundTimes, VirtualClock
from splitft.lora.blocks import Adapter
from splitft.model.split_model import StepId
from splitft.running.baselines.local_only import LocalOnlyCohort
from splitft.running.baselines.whole import WholeClient
from splitft.wire.ledger import Ledger
from splitft.wire.messages import AdapterDown, Message, OptimizerState

POOLED = "all data"  # name of the one who trains


class CentralCohort(LocalOnlyCohort):
    """One trainer of the pooled rows; the clients' held-out rows are evaluated with its adapter."""

    def __init__(
        self,
        pooled: WholeClient,
        clients: Sequence[WholeClient],
        ledger: Ledger,
        clock: VirtualClock | None = None,
        present: Callable[[int], Sequence[str]] | None = None,
    ) -> None:
        super().__init__(clients, ledger, clock, present)
        self.pooled = pooled

    def receive(self, adapters: Mapping[str, AdapterDown]) -> dict[str, OptimizerState]:
        """Start the trainer."""
        for message in list(adapters.values())[:1]:
            self.pooled.receive(message)
        return {}

    def train(self, members: Sequence[str], round_: int, *, together: bool) -> Iterator[dict[str, Message]]:
        """In each local step take one for each member, the micro-batches of each one after another."""
        for step in range(self.job.local_steps):
            for number in range(len(members)):
                for micro in range(self.job.gradient_accumulation_steps):
                    place = StepId(POOLED, round_, step * len(members) + number, micro, train=True)
                    yield self._sent({POOLED: self.pooled.train_step(place, step)})

    def evaluate(self, members: Sequence[str], round_: int) -> Iterator[dict[str, Message]]:
        """Evaluate the clients' held-out rows with the one adapter."""
        adapter = self.pooled.trained.values()
        for name in members:
            self.clients[name].adapter = adapter
            for message in self.clients[name].evaluate(round_):
                yield {name: message}

    def state(self) -> State:
        """Return the trainer's state with the clients'."""
        return super().state() | {"pooled": self.pooled.state()}

    def load_state(self, state: State) -> None:
        """Be as `state` was taken, after a round."""
        super().load_state(state)
        self.pooled.load_state(state["pooled"])

    def times(self, members: Sequence[str]) -> RoundTimes | None:
        """How long the steps would have taken on the server's device."""
        return super().times([POOLED] if members else [])

    def adapters(self) -> dict[str, Adapter]:
        """Return {folder in the run's: the one adapter}."""
        return {"adapter": self.pooled.trained.values()}
