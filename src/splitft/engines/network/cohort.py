"""The network engine at the server: clients of other machines as a `CohortRole`.

A client that is lost and comes back takes the round's steps again from their start, and with it all who
share its trunk; one that stays away is left out as if it had not been a member. (ours)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from splitft.common.state import State
from splitft.devices.steps import StateSeconds
from splitft.engines.network.aggregator_link import AggregatorLink
from splitft.engines.network.control import (
    EVALUATION,
    Control,
    End,
    Evaluate,
    Evaluated,
    Held,
    Save,
    Saved,
    Started,
    Worked,
)
from splitft.engines.network.ending import SHORT_SECONDS, say_farewell
from splitft.engines.network.members import Members
from splitft.engines.network.script import EVAL_IN_FLIGHT, MessageOrder, evaluation_script
from splitft.engines.network.timing import step_seconds
from splitft.engines.network.turn import TrunkTransaction
from splitft.job import Job
from splitft.server.parts import best_parts
from splitft.wire.messages import AdapterDown, AdapterUp, Message, OptimizerState


class NetworkCohort:
    """Clients behind a listener, in the order of their names in the job."""

    def __init__(self, members: Members, job: Job, averaging: AggregatorLink | None = None) -> None:
        self.members = members
        self.job = job
        self.averaging = averaging  # where adapters go that do not come here
        self._updates: dict[str, AdapterUp] = {}
        self.parts: dict[str, int] = {}  # with `micro_batches: auto`: what each client's times ask for
        self._left_out: list[str] = []  # of the round under way
        self._answered: Callable[[str], None] = lambda name: None
        self._began = 0.0  # when the server got what it computes on
        self.on_seconds: Callable[[str, StateSeconds], None] = lambda name, seconds: None

    @property
    def names(self) -> list[str]:
        """All clients, in the order in which the server sums."""
        return list(self.members.all)

    def present(self, round_: int) -> Sequence[str]:
        """Wait for those who take part, and return them."""
        return self.reachable()

    def reachable(self) -> Sequence[str]:
        """The clients that are there, or that come back within their time."""
        self.members.wait(lambda name: self.members.all[name].there, self.names)
        return self.members.there()

    def receive(self, adapters: Mapping[str, AdapterDown]) -> dict[str, OptimizerState]:
        """Give clients their cuts and adapters; return the optimizer state of blocks that leave them."""
        back: dict[str, OptimizerState] = {}
        holding: set[str] = set()
        for name, message in adapters.items():
            self.members.all[name].last = message
            self.members.send(name, message)

        def answered(name: str) -> bool:
            for answer in self.members.take(name, (Held, OptimizerState)):
                holding.add(name)
                if isinstance(answer, OptimizerState):
                    back.setdefault(name, answer)
            return name in holding

        self.members.wait(answered, list(adapters), self.members.config.round_seconds)
        return {name: back[name] for name in adapters if name in back}

    def train(self, members: Sequence[str], round_: int, *, together: bool) -> Iterator[dict[str, Message]]:
        """Have the members take their local steps; yield what they send, as it comes or of all `together`."""
        self._updates = {}
        self.members.evaluating = False
        self.members.recovery.mark(members)
        self.members.mark_memories(members)
        groups = [list(members)] if together else [[name] for name in members]
        turns = {name: turn for group in groups for turn in [self._turn(group, round_)] for name in group}
        self.members.on_return = lambda name: turns[name].restart() if name in turns else None
        self._answered = lambda name: turns[name].answered(name) if name in turns else None
        self._left_out = []
        deadline = self._deadline()
        while turns:
            for name, turn in list(turns.items()):
                inbox = self.members.all[name].inbox
                while inbox:
                    self._accepted(name, partial(turn.take, name), inbox.popleft())
            while messages := self._ready(turns.values()):
                self._began = time.perf_counter()
                yield messages
            for turn in dict.fromkeys(turns.values()):
                if not turn.unfinished and not self._on_the_way(turn):
                    self._measure(turn)
                    for name in turn.names:
                        self._updates[name] = turn.updates[name]
                        self.members.all[name].finished = True
                        self.members.all[name].last = None
                        del turns[name]
            deadline = self._leave_out(turns, deadline)
            if turns:
                self.members.pump()
        self.members.on_return = lambda name: None

    def _turn(self, names: list[str], round_: int) -> TrunkTransaction:
        recovery = self.members.recovery
        return TrunkTransaction(
            names, round_, self.job, self.members.send, recovery.rewind, recovery.micro_batches_of
        )

    def _ready(self, turns: Iterable[TrunkTransaction]) -> dict[str, Message]:
        """Return what waits for the server: of one turn, or of all where it may compute clients together."""
        ready: dict[str, Message] = {}
        for turn in sorted(dict.fromkeys(turns), key=lambda turn: turn.served):
            if not ready or self.job.server_batch_tokens:
                ready |= turn.ready() or {}
        return ready

    def _measure(self, turn: TrunkTransaction) -> None:
        """Tell what a step took each client, for policies that go by it."""
        for name in turn.names if self.job.splits_model else ():
            if name in turn.worked:
                worked, clock = turn.worked[name], self.members.all[name].clock
                cut = self.members.recovery.cut_of(name)
                seconds = step_seconds(self.job, worked, clock, cut, self.members.recovery.tail_start - cut)
                self.on_seconds(name, seconds)
                if name not in self.parts:
                    self.parts[name] = self._best_parts(name, worked)

    def _best_parts(self, name: str, worked: Worked) -> int:
        clock, steps = self.members.all[name].clock, self.job.local_steps
        client = worked.front_seconds + worked.tail_seconds
        link = max(0.0, clock.waited_seconds - client)
        server, clients = clock.server_seconds, len(self.members.there())
        return best_parts(
            self.job.per_device_train_batch_size, client / steps, link / steps, server / steps, clients
        )

    def _on_the_way(self, turn: TrunkTransaction) -> list[str]:
        """Those whose adapters have been sent, and have not arrived where they are averaged."""
        if self.averaging is None:
            return []
        self.averaging.take_in()
        waiting = []
        for name, update in turn.updates.items():
            try:
                if not self.averaging.handed_in(name, self.members.recovery.cut_of(name), update):
                    waiting.append(name)
            except ValueError as error:
                self.members.expel(name, str(error))
                waiting.append(name)
        return waiting

    def _leave_out(self, turns: dict[str, TrunkTransaction], deadline: float) -> float:
        """Go on without members that are given up, or are late where there are enough others.

        Returns the deadline, which is a new one where others take their steps again.
        """
        late = time.monotonic() > deadline
        for name, turn in list(turns.items()):
            slow = late and (name in turn.awaited or name in self._on_the_way(turn))
            if self.members.given_up(name) or (slow and self.members.enough([*self._left_out, name])):
                turn.leave_out(name)
                del turns[name]
                self._left_out.append(name)
                self.members.skip(name)
                self.members.notice(f"the round goes on without {name}")
                if turn.names:
                    deadline, late = self._deadline(), False
        return deadline

    def _deadline(self) -> float:
        return time.monotonic() + (self.members.config.round_seconds or math.inf)

    def answer(self, replies: Mapping[str, Message]) -> dict[str, Message]:
        """Send the server's replies; what clients say to them comes with everything else."""
        computed = (time.perf_counter() - self._began) / max(1, len(replies))
        for name, message in replies.items():
            self.members.all[name].clock.server_seconds += computed
            self._answered(name)
            self.members.send(name, message)
        return {}

    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]:
        """Return the adapters of the members that trained to the end of the round."""
        return {name: self._updates[name] for name in members if name in self._updates}

    def evaluate(self, members: Sequence[str], round_: int) -> Iterator[dict[str, Message]]:
        """Have the members evaluate their held-out rows; yield what they send as it comes."""
        left = list(members)
        scripts: dict[str, MessageOrder] = {}  # of those that have begun
        self.members.evaluating = True
        deadline = self._deadline()
        late: list[str] = []

        def again(name: str) -> None:
            if name in left:
                self.members.recovery.forget_metrics(name)
                scripts.pop(name, None)
                self.members.send(name, Evaluate(round_))

        self.members.on_return = again
        self._answered = lambda name: scripts[name].answered() if name in scripts else None
        for name in left:
            self.members.send(name, Evaluate(round_))
        while left:
            for name in list(left):
                inbox = self.members.all[name].inbox
                while inbox and name in left:
                    message = inbox.popleft()
                    if message == Started(round_, EVALUATION):
                        scripts[name] = self._script(name, round_)
                    elif name not in scripts or isinstance(message, Held | OptimizerState):
                        pass  # of what was given up, or of a client that came anew
                    elif isinstance(message, Evaluated):
                        left.remove(name)
                    elif self._accepted(name, scripts[name].check, message):
                        yield {name: message}  # type: ignore[dict-item]
                slow = time.monotonic() > deadline and self.members.enough([*late, name])
                if name in left and (slow or self.members.given_up(name)):
                    left.remove(name)
                    late.append(name)
                    self.members.all[name].muted = True
                    self.members.recovery.forget_metrics(name)
            if left:
                self.members.pump()
        self.members.on_return = lambda name: None

    def _script(self, name: str, round_: int) -> MessageOrder:
        rows = self.members.all[name].eval_rows
        lines = evaluation_script(self.job, rows)
        return MessageOrder(self.job, lines, round_, train=False, in_flight=EVAL_IN_FLIGHT)

    def _accepted(self, name: str, check: Callable[[Any], None], message: Message | Control) -> bool:
        """Whether a message may come now; a client that sends another takes part no more."""
        try:
            check(message)
        except ValueError as error:
            self.members.expel(name, str(error))
            return False
        return True

    def times(self, members: Sequence[str]) -> None:
        """There is no virtual clock."""

    def save(self, rounds_done: int) -> None:
        """Have every client write its state down; from then on the server counts on it.

        One that is on its way back is waited for: without its state its optimizer would start anew.
        """
        self.members.on_return = lambda name: self.members.send(name, Save(rounds_done))
        for name in self.members.there():
            self.members.send(name, Save(rounds_done))

        def saved(name: str) -> bool:
            member = self.members.all[name]
            for message in self.members.take(name, Saved):
                assert isinstance(message, Saved)
                if message.done == rounds_done:
                    member.done, member.exact, member.finished, member.last = rounds_done, True, False, None
            return member.done == rounds_done

        self.members.wait(saved, self.names, self.members.config.round_seconds)
        self.members.on_return = lambda name: None
        for member in self.members.all.values():
            if member.done != rounds_done:
                member.exact, member.finished, member.last = False, False, None

    def state(self) -> State:
        """Return what each client has saved, and what is kept of its samples; its own state is with it."""
        return {
            "done": {name: member.done for name, member in self.members.all.items()},
            "memories": self.members.memories(),
            "parts": self.parts,
        }

    def load_state(self, state: State) -> None:
        """Be as `state` was taken; clients are told when they come."""
        self.members.load_memories(state["memories"])
        self.parts |= state["parts"]
        newest = max(state["done"].values(), default=0)
        for name, done in state["done"].items():
            self.members.all[name].done, self.members.all[name].exact = done, done == newest

    def end(self, folder: Path) -> None:
        """Tell all who took part that the run is complete, also who is away just now; stop listening."""
        seconds = self.members.config.rejoin_seconds
        names = [
            name
            for name, member in self.members.all.items()
            if member.session and not member.expelled and member.away_seconds() < seconds
        ]
        dismiss = self.averaging.end if self.averaging is not None else None
        say_farewell(self.members.listener, names, dismiss, folder, seconds, self.members.notice)

    def stop(self, reason: str) -> None:
        """Tell who is there that the run ends early, and stop listening."""
        end = End(reason, False)
        self.members.listener.tell_end(end, self.members.there(), SHORT_SECONDS, lambda name: None)
        self.members.listener.close()
        if self.averaging is not None:
            self.averaging.end(end, SHORT_SECONDS)
