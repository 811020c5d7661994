"""Membership: which clients are connected, and how a reconnecting client is resynchronised."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from splitft.engines.network import control
from splitft.engines.network.gate import NotFiniteError
from splitft.engines.network.timing import StepClock
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.peers import Event
from splitft.errors import DivergedError, NetworkError
from splitft.job.sections import NetworkConfig
from splitft.server.coordinator import Coordinator
from splitft.server.worker import TrunkWorker
from splitft.wire.channel import Channel
from splitft.wire.ledger import Ledger
from splitft.wire.messages import AdapterDown, LocalLoss, Message, OptimizerState, not_finite

SHOWN = 300  # characters of a client's own words

Gate = Callable[[str, Message], Message]  # unpacks; raises ValueError on what does not fit the session


@dataclass
class Member:
    """One client."""

    name: str
    session: str = ""  # of its last connection; empty before the first
    there: bool = False  # it takes part: its data are read and its state is restored in this session
    connected: bool = False
    now: Callable[[], float] = time.monotonic  # seconds of a clock that never goes back
    since: float = 0.0  # when it was last lost
    expelled: str = ""  # why
    diverged: bool = False  # that is: its figures were not finite
    owes: type | None = None  # the only kind that may come next in a new session; None: any
    rows: int = 0
    eval_rows: int = 0
    done: int = 0  # the last round after which it saved its state
    exact: bool = True  # the server counts on that state
    finished: bool = False  # it has sent its adapters of the round after `done`
    last: AdapterDown | None = None  # its last hand-out since then
    evaluating: bool = False  # that one is for evaluation
    muted: bool = False  # a round goes on without it: messages are dropped until it has the next adapters
    clock: StepClock = field(default_factory=StepClock)
    unasked: list[Event] = field(default_factory=list)  # messages outside of the phase in force

    def hand_out(self, message: AdapterDown, evaluating: bool) -> None:
        """Remember what it is handed out, for a return in a new session."""
        self.last, self.evaluating = message, evaluating

    def finish(self) -> None:
        """Note that its adapters of this round are here: it need not take the steps again."""
        self.finished, self.last = True, None

    def mute(self) -> None:
        """Drop its messages until it has the next adapters."""
        self.muted = True

    def save(self, done: int, exact: bool) -> None:
        """Note the state that it can restore."""
        self.done, self.exact, self.finished, self.last = done, exact, False, None

    def admits(self, message: control.Said) -> bool:
        """Whether a message is to be used. Raises ValueError where another kind must come first."""
        kind = type(message).__name__
        if self.owes is not None and not isinstance(message, self.owes | control.Failed):
            raise ValueError(f"{kind} came where {self.owes.__name__} is next")
        if isinstance(message, control.Ready | control.Loaded) and not isinstance(message, self.owes or ()):
            raise ValueError(f"{kind} came again")
        if (
            isinstance(message, control.Held | OptimizerState)
            and self.last
            and message.round == self.last.round
        ):
            self.muted = False
        return not self.muted or self.owes is not None or isinstance(message, control.Saved | control.Failed)

    def away_seconds(self) -> float:
        """How long it has not been there."""
        return 0.0 if self.there and self.connected else self.now() - self.since


class Roster(dict[str, Member]):
    """All clients of a job, in the order of their names there, which is the order of all sums."""

    def __init__(
        self, names: Sequence[str], config: NetworkConfig, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__({name: Member(name, now=now, since=now()) for name in names})
        self.config, self.now = config, now

    def there(self) -> list[str]:
        """The clients that take part now."""
        return [name for name, member in self.items() if member.there and not member.expelled]

    def enough(self, without: Collection[str] = ()) -> bool:
        """Whether the run may go on without these clients."""
        wanted = self.config.min_clients or sum(not member.expelled for member in self.values())
        return len([name for name in self.there() if name not in without]) >= max(1, wanted)

    def given_up(self, name: str) -> bool:
        """Whether the others no longer wait for a client."""
        return bool(self[name].expelled) or (self.long_away(name) and self.enough(without=[name]))

    def long_away(self, name: str) -> bool:
        """Whether a client is away for longer than `rejoin_seconds`."""
        return self[name].away_seconds() > self.config.rejoin_seconds

    def took_part(self) -> list[str]:
        """The clients that have taken part, in this process or before its checkpoint, and were not expelled."""
        return [n for n, member in self.items() if (member.session or member.done) and not member.expelled]

    def deadline(self) -> float:
        """The time from which on clients are late with what they are asked now, by `now`."""
        return self.now() + (self.config.round_seconds or math.inf)


class Phase:
    """The phase between two parts of a round, in which nothing is asked of clients."""

    def awaits(self, name: str) -> bool:
        """Whether messages of a client are read; else they wait, and soon its connection does."""
        return False

    def take(self, name: str, message: control.Said) -> None:
        """Take in a message that passed the gate. Raises ValueError where it is not the next one."""

    def returned(self, name: str) -> None:
        """A reconnecting client has been resynchronised: ask it again."""

    def answered(self, names: Collection[str]) -> None:
        """The server has answered one message of each of these clients."""


@dataclass(eq=False)
class Members:
    """The clients behind a listener."""

    roster: Roster
    listener: Listener
    ledger: Ledger
    coordinator: Coordinator
    worker: TrunkWorker
    gate: Gate
    channels: Mapping[str, Channel]
    notice: Callable[[str], None]  # prints one line about a client
    _phase: Phase = field(default_factory=Phase, init=False)  # in force

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Have a phase take what clients send, and bring back clients that return, until it is over."""
        self._phase = phase
        for member in self.roster.values():
            for event in member.unasked:
                self.listener.used(event)
            member.unasked.clear()
        try:
            yield
        finally:
            self._phase = Phase()

    def send(self, name: str, message: control.Said) -> None:
        """Send a message, now or when the client is connected again.

        Not before a client in a new session has restored its state: it is asked again after that.
        """
        member = self.roster[name]
        if member.owes is not None and not isinstance(message, control.Load):
            return
        if isinstance(message, Message):
            try:
                if problem := not_finite(message):
                    raise DivergedError(problem)
                message = self.channels[name].pack(message)
            except DivergedError as error:
                self.expel(name, f"with it {error}", diverged=True)
                return
            self.ledger.count("down", message)
        if isinstance(message, AdapterDown):
            self.channels[name].memory.move(message.cut)
        if isinstance(message, control.Train):
            message = replace(message, memory=self.channels[name].memory.offer)
            member.clock = StepClock()
        member.clock.asked()
        self.listener.send(name, control.packed(message), member.session)

    def reply(self, replies: Mapping[str, Message]) -> None:
        """Send the server's replies to messages of the phase in force."""
        self._phase.answered(replies)
        for name, message in replies.items():
            self.send(name, message)

    def skip(self, name: str) -> None:
        """A round goes on without a client: drop its messages until it has the next adapters."""
        self.roster[name].mute()
        self.channels[name].memory.forget()
        self.channels[name].memory.rewind()
        self.send(name, control.Skip(0))

    def expel(self, name: str, reason: str, *, diverged: bool = False) -> None:
        """Let a client take part no more.

        Raises NetworkError where it was the last one, DivergedError where the figures of all were not finite.
        """
        member = self.roster[name]
        if not member.expelled:
            member.expelled, member.there, member.diverged = reason, False, diverged
            self.listener.expel(name, reason)
            self.notice(f"{name} is expelled: {reason}")
        if all(other.expelled for other in self.roster.values()):
            if all(other.diverged for other in self.roster.values()):
                raise DivergedError.of(
                    f"no client is left whose figures are finite; the last: {name}, {reason}"
                )
            raise NetworkError("every client is expelled; the last: " + reason)

    def wait(self, done: Callable[[str], bool], names: Sequence[str], seconds: float | None = None) -> None:
        """Wait until `done` holds for each client, except those given up, or late where enough are not."""
        now = self.roster.now
        began = said = now()
        late: list[str] = []
        while left := [n for n in names if not done(n) and n not in late and not self.roster.given_up(n)]:
            self.pump()
            if seconds is not None and now() - began > seconds:
                late += [name for name in left if self.roster.enough(without=[*late, name])][:1]
            if now() - said > 30.0 and (away := [n for n in left if not self.roster[n].there]):
                self.notice(f"waiting for {', '.join(away)}")
                said = now()

    def pump(self, seconds: float = 0.5) -> None:
        """Take in everything that has come from the network; wait at most this long for it."""
        try:
            event = self.listener.events.get(timeout=seconds)
            while True:
                self._on_event(event)
                event = self.listener.events.get_nowait()
        except queue.Empty:
            pass

    def _on_event(self, event: Event) -> None:
        if event.kind == "woken":
            return
        member = self.roster[event.name]
        if event.kind == "joined":
            # A new session: Ready and Loaded come first.
            member.session, member.owes = event.session, control.Ready
            member.there, member.connected = False, True
            member.unasked.clear()
            self.channels[member.name].memory.forget()
        elif event.kind == "gone":
            self.expel(member.name, event.reason)
        elif event.session != member.session or member.expelled:
            return  # of a former session
        elif event.kind == "said":
            member.clock.heard(event.at)
            self._receive(member, event)
        elif event.kind == "back":
            member.connected = True
            self.notice(f"{member.name} is connected again")
        elif event.kind == "away":
            member.connected, member.since = False, member.now()
            self.notice(f"{member.name} is lost: {event.reason}")
        elif event.kind == "expelled":
            self.expel(member.name, event.reason)

    def _receive(self, member: Member, event: Event) -> None:
        """The way of one message: membership, gate, phase; one that fails a check expels its client."""
        name = member.name
        try:
            # Membership: a session opens with Ready and Loaded; muted clients are not heard.
            message = control.WIRE.decode(event.payload)
            if isinstance(message, control.Failed):
                says = ValueError if message.reason != control.DIVERGED else NotFiniteError
                raise says(f"it says: {_plain(message.reason)}")
            used = member.admits(message)
            if used and not isinstance(message, control.Ready | control.Loaded):
                # Nobody asked: it keeps its place, and of clients with many of them nothing is read.
                if not self._phase.awaits(name):
                    member.unasked.append(event)
                    return
                # The gate: shapes, types and values. Then the phase: the order, and the transaction.
                self._phase.take(name, self._through_gate(member, message))
        except ValueError as error:
            self.expel(name, str(error), diverged=isinstance(error, NotFiniteError))
        else:
            if isinstance(message, control.Ready):
                member.rows, member.eval_rows = message.rows, message.eval_rows
                member.owes = control.Loaded
                done = member.done if member.exact else 0
                self.send(name, control.Load(done, member.exact and member.finished))
            elif isinstance(message, control.Loaded):
                self._resynchronise(member, message.ok and member.exact)
        self.listener.used(event)

    def _through_gate(self, member: Member, message: control.Said) -> control.Said:
        """Return a message unpacked and checked, and count it. Raises ValueError where it does not fit."""
        if isinstance(message, control.Started) and message.attempt != control.EVALUATION:
            # Before the messages that follow are unpacked.
            self.channels[member.name].memory.accept(message.memory)
        if not isinstance(message, Message):
            return message
        checked = self.gate(member.name, message)
        if not isinstance(message, LocalLoss):
            self.ledger.count("up", message)
        return checked

    def _resynchronise(self, member: Member, restored: bool) -> None:
        """Have a client whose state is restored, or lost, take part from where the others are."""
        name = member.name
        member.owes, member.there = None, True
        if not restored:
            self.coordinator.blocks.forget(name)
            if member.last is not None:
                member.last = self.coordinator.hand_out_anew(
                    member.last.round, name, evaluate=member.evaluating
                )
            if member.done:
                self.notice(f"{name} has lost its state: its optimizer starts from zero")
        if member.last is not None:
            self.send(name, member.last)
        self.notice(f"{name} takes part with {member.rows} rows")
        self._phase.returned(name)


def _plain(text: str) -> str:
    """Return a client's words as one line that moves no cursor."""
    return "".join(c if c.isprintable() else " " for c in text[:SHOWN])
