"""The network engine at the server: clients on other machines as a `CohortRole`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from splitft.common.state import State
from splitft.engines.network.aggregator_link import AggregatorLink
from splitft.engines.network.members import Members
from splitft.engines.network.phases import Evaluation, HandOut, Saving
from splitft.engines.network.timing import StepTimes
from splitft.engines.network.training import Training
from splitft.job.settings import TrainingSettings
from splitft.wire.messages import AdapterDown, AdapterUp, Message, OptimizerState


@dataclass(eq=False)
class NetworkCohort:
    """Clients behind a listener, in the order of their names in the job."""

    _members: Members
    _job: TrainingSettings
    _times: StepTimes  # measured
    _averaging: AggregatorLink | None = None  # where clients' adapters go; None: to the server
    _evaluating: bool = field(default=False, init=False)  # the next hand-out is for evaluation
    _updates: dict[str, AdapterUp] = field(default_factory=dict, init=False)  # of the round's local steps

    @property
    def names(self) -> list[str]:
        """All clients, in the order in which the server sums."""
        return list(self._members.roster)

    def present(self, round_: int) -> Sequence[str]:
        """Wait for clients that are lost, and return those that can train."""
        there, self._evaluating = self.reachable(), False
        return there

    def reachable(self) -> Sequence[str]:
        """Wait for clients that are lost, and return those that can evaluate."""
        self._evaluating = True
        roster = self._members.roster
        self._members.wait(lambda name: roster[name].there, self.names)
        return roster.there()

    def receive(self, adapters: Mapping[str, AdapterDown]) -> dict[str, OptimizerState]:
        """Give clients their cuts and adapters; return the optimizer state of blocks that leave them."""
        return HandOut(self._members, adapters, self._evaluating).run()

    def train(self, members: Sequence[str], round_: int, *, together: bool) -> Iterator[dict[str, Message]]:
        """Have clients take their local steps; yield their messages as they come, or of all `together`."""
        groups = [list(members)] if together else [[name] for name in members]
        training = Training(self._members, self._job, self._times, self._averaging, groups, round_)
        self._updates = training.updates
        return training.run()

    def answer(self, replies: Mapping[str, Message]) -> dict[str, Message]:
        """Send the server's replies; clients' answers to them come with everything else."""
        self._members.reply(replies)
        return {}

    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]:
        """Return the adapters of the members that trained to the end of the round."""
        return {name: self._updates[name] for name in members if name in self._updates}

    def evaluate(self, members: Sequence[str], round_: int) -> Iterator[dict[str, Message]]:
        """Have clients evaluate their held-out rows; yield their messages as they come."""
        return Evaluation(self._members, self._job, members, round_).run()

    def times(self, members: Sequence[str]) -> None:
        """There is no virtual clock."""

    def save(self, rounds_done: int) -> None:
        """Have every client save its state; from then on the server counts on it."""
        Saving(self._members, rounds_done).run()

    def state(self) -> State:
        """Return what each client has saved, and what is kept of its samples; its own state is with it."""
        return {
            "done": {name: member.done for name, member in self._members.roster.items()},
            "memories": {name: end.memory.state() for name, end in self._members.channels.items()},
            "parts": self._times.parts,
        }

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state`; clients restore theirs when they connect."""
        for name, end in self._members.channels.items():
            end.memory.load_state(state["memories"][name])
        self._times.parts.update(state["parts"])
        newest = max(state["done"].values(), default=0)
        for name, done in state["done"].items():
            self._members.roster[name].save(done, exact=done == newest)
