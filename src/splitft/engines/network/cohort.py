"""The network engine at the server: clients elsewhere as a `CohortRole`, and the phases beside training."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from splitft.common.state import State
from splitft.data.estimates import HeldOutRows
from splitft.data.sample import HeldOutPart
from splitft.engines.held_out import HeldOutSamples
from splitft.engines.network.aggregator_link import AggregatorLink
from splitft.engines.network.cohorts import CohortLog
from splitft.engines.network.control import EVALUATION, Evaluate, Evaluated, Held, Said, Started
from splitft.engines.network.members import Members
from splitft.engines.network.message_order import EVAL_IN_FLIGHT, MessageOrder, evaluation_script
from splitft.engines.network.orders import Orders
from splitft.engines.network.phase import Phase
from splitft.engines.network.roster import go_back, restoring
from splitft.engines.network.round_steps import RoundSteps
from splitft.engines.network.saving import Saving, SavingConnected
from splitft.engines.network.timing import StepTimes
from splitft.engines.network.training import Training
from splitft.engines.network.waiting import all_come, wait_for_enough
from splitft.job.settings import CostSettings, TrainingSettings
from splitft.server.seam import ClientError
from splitft.wire.messages import AdapterDown, AdapterUp, HeldOut, Message, OptimizerState


@dataclass(eq=False)
class NetworkCohort:
    """Clients behind a listener, in the order of their names in the job."""

    _members: Members
    _job: CostSettings
    _times: StepTimes  # measured
    _averaging: AggregatorLink | None = None  # where clients' adapters go; None: to the server
    _goes_back: bool = True  # a round may begin anew, from the last checkpoint
    _orders: Orders | None = None  # of the operator
    _cohorts: CohortLog = field(default_factory=CohortLog)  # where clients come and go
    _phase: Phase = field(default_factory=Phase, init=False)  # whose messages the server computes
    _evaluating: bool = field(default=False, init=False)  # the next hand-out is for evaluation
    _updates: dict[str, AdapterUp] = field(default_factory=dict, init=False)  # of the last local steps
    _steps: RoundSteps = field(default_factory=RoundSteps, init=False)

    def __post_init__(self) -> None:
        roster = self._members.roster
        self.open, self.over_selection = roster.config.samples_connected, roster.config.over_selection
        self._held_out = HeldOutSamples(
            self._job, lambda: {name: member.eval_rows for name, member in roster.items()}
        )

    @property
    def names(self) -> list[str]:
        """All clients, in the order in which the server sums."""
        return list(self._members.roster)

    def present(self, round_: int) -> Sequence[str]:
        """Wait for clients that are lost; return those that can train. The round begins without others.

        Where clients come and go, a round that is begun again after a restart is of those that it was of.
        """
        if self._orders is not None:
            self._orders.wait(self._members.pump)
            self._orders.begin(round_)
        there, self._evaluating = self._there(), False
        if self.open and self._steps.round != round_ and (due := self._due(round_)):
            there = due
        present = {*there}
        for name, member in self._members.roster.items():
            if round_ and name not in present and (not self.open or member.unsaved):
                member.mute()
        return there

    def reachable(self) -> Sequence[str]:
        """Wait for clients that are lost, and return those that can evaluate.

        Where clients come and go, none that is late: it may take long to read what it is asked.
        """
        self._evaluating, roster = True, self._members.roster
        return [name for name in self._there() if not (self.open and roster[name].muted)]

    def _there(self) -> Sequence[str]:
        """Wait for clients that are lost; where they come and go, for as many as a round needs."""
        roster = self._members.roster
        if self.open:
            return wait_for_enough(roster, self._members.notice, self._members.pump)
        self._members.wait(lambda name: roster[name].there, self.names)
        return roster.there()

    def receive(self, adapters: Mapping[str, AdapterDown]) -> dict[str, OptimizerState]:
        """Give clients their cuts and adapters; return the optimizer state of blocks that leave them."""
        if not self._evaluating:
            (round_,) = {message.round for message in adapters.values()}
            self._steps, self._updates = RoundSteps(round_, list(adapters)), {}
            if self.open:
                self._cohorts.draw(round_, list(adapters), len(self._members.roster.connected()))
        return HandOut(self._members, adapters, self._evaluating, waits=not self.open).run()

    def train(self, members: Sequence[str], round_: int, *, together: bool) -> Iterator[dict[str, Message]]:
        """Have clients take their local steps; yield their messages as they come, or of all `together`.

        Where some have taken them in this round before, all that was trained in it is first rolled back, and
        clients that the round went on without do not come back to it. Raises as `Training.run` does.
        """
        if back := self._steps.take_back(members):
            self._members.worker.rewind(back, first=True)
            self._members.take_back([name for name in back if not self._members.roster[name].expelled])
        now = self._steps.those_of(members)
        training = Training(
            self._members,
            self._job,
            self._times,
            self._averaging,
            self._steps,
            now,
            together=together,
            goes_back=self._goes_back,
        )
        self._phase, self._updates = training, training.updates
        return training.run()

    def answer(self, replies: Mapping[str, Message]) -> dict[str, Message]:
        """Send the server's replies; clients' answers to them come with everything else."""
        self._members.reply(self._held_out.without_sums(replies))
        return {}

    def go_on_without(self, error: ClientError, clients: Collection[str]) -> None:
        """Expel a client whose message could not be computed; the others go on as if it had not come.

        Raises what was raised where it concerns no single client.
        """
        cause = error.__cause__ or error
        if len(error.clients) != 1:
            raise cause
        (name,) = error.clients
        self._members.expel(name, self._members.faults.keep(name, cause))
        self._phase.go_on_without(name, {*clients, name})
        self._members.worker.forget_metrics(name)

    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]:
        """Return the adapters of the members that trained to the end of the round."""
        if self.open and self._steps.over(self._members.roster):
            counted = self._steps.trained
            self._cohorts.count(round_, [name for name in self._steps.clients if name in counted])
        return {name: self._updates[name] for name in members if name in self._updates}

    def evaluate(self, members: Sequence[str], round_: int, *, whole: bool) -> Iterator[dict[str, Message]]:
        """Have clients evaluate their held-out rows; yield their messages as they come.

        Where the server evaluates by itself: collect the ids that it lacks, and yield those of all rows.
        """
        own = self._held_out
        asked = [name for name in members if own.lacking(name, whole=whole)]
        part = partial(own.part, whole=whole)
        self._phase = evaluation = Evaluation(self._members, self._job, asked, round_, part)
        messages = evaluation.run()
        if not self._job.evaluates_at_server:
            yield from messages
            return
        for came in messages:
            for name, message in came.items():
                own.keep(name, cast(HeldOut, message))
        for name in members:
            for batch in own.kept(name, round_, whole=whole):
                if not self._members.roster[name].expelled:
                    yield {name: batch}
            if (sums := own.take_sums(name)) is not None:
                self._members.send(name, sums)

    @property
    def held_out(self) -> dict[str, HeldOutRows]:
        """Return the numbers of each client's held-out rows."""
        return self._held_out.rows()

    @property
    def train_rows(self) -> dict[str, int]:
        """Return the number of training rows that each client has stated."""
        return {name: member.rows for name, member in self._members.roster.items()}

    @property
    def held_out_batches(self) -> dict[str, HeldOut]:
        """Return a batch of held-out ids of each client that takes part, where they are at the server."""
        return self._held_out.first_batches(self._members.roster.there())

    def times(self, members: Sequence[str]) -> None:
        """There is no virtual clock."""

    def save(self, rounds_done: int, *, last: bool = False) -> None:
        """Have every client save its state; from then on the server counts on it.

        last: the run is over, and these states serve its extension alone.
        """
        (SavingConnected if self.open else Saving)(self._members, rounds_done, last).run()

    def state(self) -> State:
        """Return what each client has saved, and what is kept of its samples; its own state is with it."""
        roster = self._members.roster
        return {
            "done": {name: member.done for name, member in roster.items()},
            "exact": [name for name, member in roster.items() if member.exact],
            "memories": self._members.kept.state(),
            "parts": self._times.parts,
            "held_out": self._held_out.state(),
            **({"orders": given} if self._orders and (given := self._orders.state()) else {}),
            **({"trained_last": left} if (left := [n for n, m in roster.items() if m.trained_last]) else {}),
        }

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state`; clients restore theirs, now or when they connect."""
        self._members.kept.load_state(state["memories"])
        self._times.parts.update(state["parts"])
        self._held_out.load_state(state["held_out"])  # clients send their ids again
        if self._orders is not None:
            self._orders.load_state(state.get("orders", []))
        done, roster = state["done"], self._members.roster
        newest = max(done.values(), default=0)
        exact = state.get("exact", [name for name in done if done[name] == newest])
        kept, left = {*exact}, {*state.get("trained_last", ())}
        for name, rounds in done.items():
            if go_back(roster[name], rounds, exact=name in kept, trained_last=name in left):
                self._members.send(name, restoring(roster[name]))

    def _due(self, round_: int) -> list[str]:
        """Wait for the clients of a round that is begun again; empty where some do not come."""
        roster = self._members.roster
        due = [name for name in self._cohorts.due(round_) if name in roster]
        return due if all_come(roster, due, self._members.pump) else []


@dataclass(eq=False)
class HandOut(Phase):
    """Clients get their cuts and adapters, and return the optimizer state of blocks that leave them."""

    members: Members
    adapters: Mapping[str, AdapterDown]
    evaluating: bool  # the adapters are to be evaluated
    waits: bool = True  # for the answers; where no block ever moves they say nothing
    _answers: dict[str, Held | OptimizerState] = field(default_factory=dict, init=False)

    def run(self) -> dict[str, OptimizerState]:
        """Hand out, wait for the answers, and return the optimizer states."""
        roster = self.members.roster
        with self.members.during(self):
            for name, message in self.adapters.items():
                roster[name].hand_out(message, self.evaluating)
                self.members.send(name, message)
            names = list(self.adapters) if self.waits else []
            self.members.wait(self._answers.__contains__, names, roster.config.round_seconds)
        answers = [(name, self._answers.get(name)) for name in self.adapters]
        return {name: answer for name, answer in answers if isinstance(answer, OptimizerState)}

    def awaits(self, name: str) -> bool:
        return name in self.adapters and name not in self._answers

    def take(self, name: str, message: Said) -> None:
        if isinstance(message, Held | OptimizerState) and message.round == self.adapters[name].round:
            self._answers[name] = message


@dataclass(eq=False)
class Evaluation(Phase):
    """Clients evaluate their held-out rows."""

    members: Members
    job: TrainingSettings
    names: Sequence[str]
    round: int
    part: Callable[[str], HeldOutPart]  # of each client's rows
    _left: list[str] = field(default_factory=list, init=False)  # clients that are not done
    _orders: dict[str, MessageOrder] = field(default_factory=dict, init=False)  # of clients that have begun
    _inboxes: defaultdict[str, deque[Message | Evaluated]] = field(
        default_factory=lambda: defaultdict(deque), init=False
    )

    def run(self) -> Iterator[dict[str, Message]]:
        """Yield what clients send, as it comes."""
        roster, late = self.members.roster, list[str]()
        self._left += self.names
        with self.members.during(self):
            deadline = roster.deadline()
            for name in self._left:
                self._ask(name)
            while self._left:
                for name in list(self._left):
                    # Messages for the server, and the end of each client's rows.
                    inbox = self._inboxes[name]
                    while inbox:
                        message = inbox.popleft()
                        if isinstance(message, Evaluated):
                            self._left.remove(name)
                            break
                        yield {name: message}
                    # Clients that are given up, or late where there are enough others.
                    slow = roster.now() > deadline and roster.enough([*late, name])
                    if name in self._left and (slow or roster.given_up(name)):
                        self._left.remove(name)
                        late.append(name)
                        roster[name].mute()
                        self.members.worker.forget_metrics(name)
                if self._left:
                    self.members.pump()

    def awaits(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, message: Said) -> None:
        if name in self._orders:
            if isinstance(message, Evaluated):
                self._orders[name].finished(message.round)
                self._inboxes[name].append(message)
            else:
                self._inboxes[name].append(self._orders[name].checked(message))
        elif message == Started(self.round, EVALUATION):  # before that, messages are of steps given up
            lines = evaluation_script(self.job, self.members.roster[name].eval_rows, self.part(name))
            order = MessageOrder(self.job, lines, self.round, train=False, in_flight=EVAL_IN_FLIGHT)
            self._orders[name] = order

    def go_on_without(self, name: str, clients: Collection[str]) -> None:
        self._inboxes[name].clear()
        if name in self._left:
            self._left.remove(name)

    def returned(self, name: str) -> None:
        """Have a client evaluate its rows again, from the first on."""
        if name in self._left:
            self.members.worker.forget_metrics(name)
            self._orders.pop(name, None)
            self._inboxes[name].clear()
            self._ask(name)

    def _ask(self, name: str) -> None:
        part = self.part(name)
        self.members.send(name, Evaluate(self.round, part.sample, part.whole, part.have))

    def answered(self, names: Collection[str]) -> None:
        for name in names:
            if name in self._orders:
                self._orders[name].answered()
