"""What a client has sent and nothing has used yet: it counts against the client until it is used. (ours)"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from splitft.common.state import State
from splitft.engines.network.control import (
    EVALUATION,
    WIRE,
    Control,
    Failed,
    Held,
    Load,
    Loaded,
    Ready,
    Saved,
    Skip,
    Started,
    Train,
    packed,
)
from splitft.engines.network.timing import StepClock
from splitft.engines.network.transport.listener import Event, Listener
from splitft.errors import DivergedError, NetworkError
from splitft.job.sections import NetworkConfig
from splitft.wire.channel import Channel
from splitft.wire.ledger import Ledger
from splitft.wire.messages import KINDS, AdapterDown, LocalLoss, Message, OptimizerState

Release = Callable[[], None]  # there is room for more


class Inbox:
    """Messages in the order in which they came. Whoever takes one out makes room for another."""

    def __init__(self) -> None:
        self._entries: deque[tuple[Message | Control, Release]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, message: Message | Control, release: Release) -> None:
        """Keep a message; `release` is called when it is taken out."""
        self._entries.append((message, release))

    def popleft(self) -> Message | Control:
        """Take out the oldest message."""
        message, release = self._entries.popleft()
        release()
        return message

    def take(self, kind: type | tuple[type, ...]) -> list[Message | Control]:
        """Take out all messages of a kind."""
        entries, self._entries = self._entries, deque()
        found = []
        for message, release in entries:
            if isinstance(message, kind):
                found.append(message)
                release()
            else:
                self._entries.append((message, release))
        return found

    def keep(self, kind: type | tuple[type, ...]) -> None:
        """Drop all messages that are not of a kind."""
        entries, self._entries = self._entries, deque()
        for message, release in entries:
            if isinstance(message, kind):
                self._entries.append((message, release))
            else:
                release()

    def clear(self) -> None:
        """Drop all messages."""
        self.keep(())


ANSWERS = (Held, OptimizerState, Saved)  # what clients send between training and evaluation
MOST_ANSWERS = 8  # of a client, beyond what is asked for: of what was asked before it came anew
SHOWN = 300  # characters of what a client says

Gate = Callable[[str, Message], Message]  # unpacks; raises ValueError on what does not fit the session


class Recovery(Protocol):
    """What a server does for clients that were lost."""

    @property
    def tail_start(self) -> int: ...
    def cut_of(self, client: str) -> int: ...
    def micro_batches_of(self, client: str) -> int: ...
    def mark(self, clients: Sequence[str]) -> None: ...
    def rewind(self, clients: Sequence[str]) -> None: ...
    def forget_metrics(self, client: str) -> None: ...
    def forget(self, client: str) -> None: ...
    def hand_out_anew(self, round_: int, client: str, *, evaluate: bool = False) -> AdapterDown: ...


@dataclass
class Member:
    """A client. done: rounds after which it last saved its state; exact: the server counts on that state.

    finished: it has sent its adapters of the round after these. last: what it was handed out since then.
    owes: what it must say first in a new session, and then; None: it takes part.
    """

    name: str
    session: str = ""
    there: bool = False  # connected, with its data read and its state as it should be
    connected: bool = False
    since: float = field(default_factory=time.monotonic)  # when it went away
    expelled: str = ""
    rows: int = 0
    eval_rows: int = 0
    done: int = 0
    exact: bool = True
    finished: bool = False
    last: AdapterDown | None = None
    clock: StepClock = field(default_factory=StepClock)
    owes: type | None = None
    handed_out: int = 0  # round of the last adapters that it was sent
    muted: bool = (
        False  # a round went on without it: what it sends is dropped, until it has the next adapters
    )
    inbox: Inbox = field(default_factory=Inbox)

    def away_seconds(self) -> float:
        """How long it has not been there."""
        return 0.0 if self.there and self.connected else time.monotonic() - self.since


class Members:
    """All clients of a job behind a listener. notice: is told who comes and goes, in words."""

    def __init__(
        self,
        names: Sequence[str],
        config: NetworkConfig,
        listener: Listener,
        ledger: Ledger,
        recovery: Recovery,
        gate: Gate,
        channels: Mapping[str, Channel],
        notice: Callable[[str], None],
    ) -> None:
        self.all = {name: Member(name) for name in names}
        self.config = config
        self.listener = listener
        self.ledger = ledger
        self.recovery = recovery
        self.notice = notice
        self.evaluating = False  # what was handed out last is to be evaluated
        self.on_return: Callable[[str], None] = lambda name: None  # a client that came anew goes on
        self._gate = gate
        self._channels = channels

    def there(self) -> list[str]:
        """The clients that take part now, in their order."""
        return [name for name, member in self.all.items() if member.there and not member.expelled]

    def enough(self, without: Collection[str] = ()) -> bool:
        """Whether the run may go on without these clients."""
        wanted = self.config.min_clients or sum(not member.expelled for member in self.all.values())
        return len([name for name in self.there() if name not in without]) >= max(1, wanted)

    def given_up(self, name: str) -> bool:
        """Whether the others no longer wait for a client."""
        member = self.all[name]
        if member.expelled:
            return True
        return member.away_seconds() > self.config.rejoin_seconds and self.enough(without=[name])

    def send(self, name: str, message: Message | Control) -> None:
        """Send a message, now or when the client is connected again.

        Not to one that is about to be brought to where it should be: it gets what it needs after that, and
        would act on this as it is.
        """
        if self.all[name].owes is not None and not isinstance(message, Load):
            return
        if isinstance(message, KINDS):
            try:
                message = self._channels[name].pack(message)
            except DivergedError as error:
                self.expel(name, f"with it {error}")
                return
            self.ledger.count("down", message)
        member = self.all[name]
        if isinstance(message, AdapterDown):
            member.handed_out = message.round
            self._channels[name].memory.move(message.cut)
        if isinstance(message, Train):
            member.clock = StepClock()
            message = replace(message, memory=self._channels[name].memory.offer)
        member.clock.asked()
        self.listener.send(name, packed(message), member.session)

    def skip(self, name: str) -> None:
        """A round goes on without a client: drop what it sends, until it has the next adapters."""
        self.all[name].muted = True
        self._channels[name].memory.forget()
        self._channels[name].memory.rewind()
        self.send(name, Skip(0))

    def mark_memories(self, names: Sequence[str]) -> None:
        """A round's local steps begin: clients that take them again start from what is kept now."""
        for name in names:
            self._channels[name].memory.mark()

    def memories(self) -> State:
        """Return what is kept of each client's samples, as a checkpoint holds it."""
        return {name: channel.memory.state() for name, channel in self._channels.items()}

    def load_memories(self, state: State) -> None:
        """Be as `state` was taken."""
        for name, channel in self._channels.items():
            channel.memory.load_state(state[name])

    def expel(self, name: str, reason: str) -> None:
        """Let a client take part no more. Raises NetworkError where it was the last one."""
        member = self.all[name]
        if not member.expelled:
            member.expelled, member.there = reason, False
            self.listener.expel(name, reason)
            self.notice(f"{name} is expelled: {reason}")
        if all(other.expelled for other in self.all.values()):
            raise NetworkError("every client is expelled; the last: " + reason)

    def wait(self, done: Callable[[str], bool], names: Sequence[str], seconds: float | None = None) -> None:
        """Wait until it is so for each client but those that are given up, or late where enough are not."""
        began = said = time.monotonic()
        late: list[str] = []
        while left := [n for n in names if not done(n) and n not in late and not self.given_up(n)]:
            self.pump()
            self._drop_leftovers()
            if seconds is not None and time.monotonic() - began > seconds:
                late += [name for name in left if self.enough(without=[*late, name])][:1]
            if time.monotonic() - said > 30.0 and (away := [n for n in left if not self.all[n].there]):
                self.notice(f"waiting for {', '.join(away)}")
                said = time.monotonic()

    def pump(self, seconds: float = 0.5) -> None:
        """Take in what came from the network; wait at most so long for it."""
        try:
            event = self.listener.events.get(timeout=seconds)
            while True:
                self._on_event(event)
                event = self.listener.events.get_nowait()
        except queue.Empty:
            pass

    def take(self, name: str, kind: type | tuple[type, ...]) -> list[Message | Control]:
        """Remove the messages of a kind from a client's inbox, and return them."""
        return self.all[name].inbox.take(kind)

    def _drop_leftovers(self) -> None:
        """Between training and evaluation: drop what is left of steps that were given up."""
        for name, member in self.all.items():
            member.inbox.keep(ANSWERS)
            if len(member.inbox) > MOST_ANSWERS:
                self.expel(name, "it answers what nobody asks")

    def _on_event(self, event: Event) -> None:
        if event.kind == "woken":
            return
        member = self.all[event.name]
        if event.kind == "joined":
            member.session, member.there, member.connected = event.session, False, True
            member.inbox.clear()
            self._channels[member.name].memory.forget()
            member.owes = Ready
        elif event.kind == "gone":
            self.expel(member.name, event.reason)
        elif event.session != member.session or member.expelled:
            return
        elif event.kind == "said":
            member.clock.heard(event.at)
            if not self._on_payload(member, event):
                self.listener.used(event)
        elif event.kind == "back":
            member.connected = True
            self.notice(f"{member.name} is connected again")
        elif event.kind == "away":
            member.connected, member.since = False, time.monotonic()
            self.notice(f"{member.name} is lost: {event.reason}")
        elif event.kind == "expelled":
            self.expel(member.name, event.reason)

    def _on_payload(self, member: Member, event: Event) -> bool:
        """Take in a message; return whether it is in the inbox, to be used later."""
        try:
            message = WIRE.decode(event.payload)
            if isinstance(message, Held | OptimizerState) and message.round == member.handed_out:
                member.muted = False
            if member.muted and member.owes is None and not isinstance(message, Saved | Failed):
                return False
            if member.owes is not None and not isinstance(message, member.owes | Failed):
                raise ValueError(f"{type(message).__name__} came where {member.owes.__name__} is next")
            if isinstance(message, Started) and message.attempt != EVALUATION:
                # Before the messages that follow are unpacked.
                self._channels[member.name].memory.accept(message.memory)
            arrived = message
            if isinstance(message, KINDS):
                message = self._gate(member.name, message)
        except ValueError as error:
            self.expel(member.name, str(error))
            return False
        if isinstance(arrived, KINDS) and not isinstance(arrived, LocalLoss):
            self.ledger.count("up", arrived)
        match message:
            case Ready():
                if member.owes is not Ready:
                    self.expel(member.name, "Ready came again")
                    return False
                member.rows, member.eval_rows, member.owes = message.rows, message.eval_rows, Loaded
                self.send(
                    member.name, Load(member.done if member.exact else 0, member.exact and member.finished)
                )
            case Loaded():
                if member.owes is not Loaded:
                    self.expel(member.name, "Loaded came again")
                    return False
                member.owes = None
                self._on_loaded(member, message.ok and member.exact)
            case Failed():
                self.expel(member.name, f"it says: {_plain(message.reason)}")
            case _:
                member.inbox.append(message, partial(self.listener.used, event))
                return True
        return False

    def _on_loaded(self, member: Member, ok: bool) -> None:
        """A client is where it should be, or at its start: hand it out again what it needs, and go on."""
        if not ok:
            self.recovery.forget(member.name)
            if member.last is not None:
                member.last = self.recovery.hand_out_anew(
                    member.last.round, member.name, evaluate=self.evaluating
                )
            if member.done:
                self.notice(f"{member.name} has lost its state: its optimizer starts anew")
        if member.last is not None:
            self.send(member.name, member.last)
        member.there = True
        self.notice(f"{member.name} takes part with {member.rows} rows")
        self.on_return(member.name)


def _plain(text: str) -> str:
    """What a client says, as one line that moves no cursor."""
    return "".join(c if c.isprintable() else " " for c in text[:SHOWN])
