"""The server of a run: the coordinator and the trunk worker, and the messages between them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from splitft.common.state import State
from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import Adapter
from splitft.lora.means import Mean
from splitft.model.split_model import SplitModel
from splitft.server.coordinator import Coordinator
from splitft.server.guard import Guard
from splitft.server.round_average import RemoteAverage
from splitft.server.worker import TrunkWorker
from splitft.wire.messages import AdapterDown, AdapterUp, Message, Metrics, OptimizerState


class Server:
    """The server as the rounds see it. Raises ValueError where a message does not fit the session.

    names: of all clients, in the order of sums. For the other arguments see `Coordinator` and `TrunkWorker`.
    """

    def __init__(
        self,
        model: SplitModel,
        settings: TrainingSettings,
        adapter: Adapter,
        *,
        continues: bool = False,
        batch_tokens: int = 0,
        micro_batches: Callable[[str], int] = lambda client: 1,
        mean: Mean | None = None,
        averager: RemoteAverage | None = None,
        log: Callable[[dict[str, Any]], None] = lambda line: None,
        guard: Guard | None = None,
        dropped: Callable[[], Collection[str]] = tuple,
        names: Sequence[str] = (),
    ) -> None:
        self.coordinator = Coordinator(
            settings,
            model.slots.layout,
            model.num_blocks,
            adapter,
            continues=continues,
            micro_batches=micro_batches,
            mean=mean,
            averager=averager,
            log=log,
            guard=guard,
            dropped=dropped,
            place={name: place for place, name in enumerate(names)},
        )
        self.worker = TrunkWorker(model, settings, batch_tokens=batch_tokens, log=log)
        # The figures of a round, each counted by one of the two.
        self.training_losses, self.take_metrics = self.worker.training_losses, self.worker.take_metrics
        self._guard = guard
        self._evaluates = settings.evaluates_at_server
        self.truncation_errors = self.coordinator.blocks.take_truncation_errors

    @property
    def first_metrics(self) -> dict[str, Metrics]:
        """The sums over each client's held-out rows in its first evaluation."""
        return self.worker.first_metrics

    @property
    def adapter(self) -> Adapter:
        """The global adapter of all blocks."""
        return self.coordinator.blocks.adapter

    def hand_out(
        self, round_: int, cuts: Mapping[str, int], *, evaluate: bool = False
    ) -> dict[str, AdapterDown]:
        """Set the clients' cuts and return what they lack; the trunks start from the same adapter.

        The optimizer state of a block moves with it; for blocks that leave a client see `take_moments`.
        """
        every_block = evaluate and self._evaluates
        start, loads = self.coordinator.load_trunks(round_, cuts, every_block=every_block)
        moments = self.worker.load(start, loads)
        return self.coordinator.hand_out(round_, cuts, moments, evaluate=evaluate)

    def take_moments(self, states: Mapping[str, OptimizerState]) -> None:
        """Take over the optimizer state of blocks that came back to the trunks with lower cuts."""
        self.worker.adopt(self.coordinator.take_moments(states))

    def step(self, messages: Mapping[str, Message]) -> dict[str, Message]:
        """Return answers to these messages, one of each client, and to earlier ones that had none yet."""
        return self.worker.step(messages)

    def gather(self, updates: Mapping[str, AdapterUp]) -> None:
        """Take in what clients trained: their adapters, and the norms for the trunks' last steps."""
        norms = {c: update.grad_norms for c, update in updates.items() if update.grad_norms is not None}
        self.worker.take_norms(norms)
        self.coordinator.gather(updates)

    def aggregate(self) -> Sequence[str]:
        """Average what the clients and the trunks trained in this round, block by block.

        Returns the clients without which the others' local steps must be taken again: see `Coordinator`.
        """
        return self.coordinator.aggregate(self.worker.collect())

    def accepts(self, metrics: Mapping[str, Metrics]) -> bool:
        """Whether the round's average stands after its evaluation; else it has changed, see `Guard`."""
        return self._guard is None or self._guard.accepts(metrics)

    def state(self) -> State:
        """Return all that outlasts a round, as a checkpoint holds it."""
        return self.coordinator.state() | self.worker.state()

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()` after a round."""
        self.coordinator.load_state(state)
        self.worker.load_state(state)
