"""Membership: which clients are connected, and how a reconnecting client is resynchronised."""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from splitft.common.text import plain
from splitft.engines.network import control, member_notices
from splitft.engines.network.faults import FaultLog
from splitft.engines.network.gate import NotFiniteError
from splitft.engines.network.kept_samples import KeptSamples
from splitft.engines.network.phase import Phase
from splitft.engines.network.roster import Member, Roster, hand_outs_again, restoring
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.peers import Event
from splitft.engines.network.waiting import WaitingLine
from splitft.errors import DivergedError
from splitft.server.coordinator import Coordinator
from splitft.server.worker import TrunkWorker
from splitft.wire.channel import Channel
from splitft.wire.ledger import Ledger
from splitft.wire.messages import AdapterDown, LocalLoss, Message, not_finite

SHOWN = 300  # characters of a client's own words

Gate = Callable[[str, Message], Message]  # unpacks; raises ValueError on what does not fit the session


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
    faults: FaultLog
    changed: Callable[[Roster], None] = lambda roster: None  # called where the standing of a client changes
    facts: Mapping[str, str] = field(default_factory=dict)  # that a client's must equal: see `sameness`
    woken: Callable[[], None] = lambda: None  # called where something else than a client has news
    lost: Callable[[str], None] = lambda name: None  # called where a client's state is lost
    _phase: Phase = field(default_factory=Phase, init=False)  # in force

    def __post_init__(self) -> None:
        self.kept = KeptSamples(self.roster, self.channels)

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Have a phase take what clients send, and bring back clients that return, until it is over."""
        self._phase = phase
        for event in self.roster.take_unasked():
            self.listener.used(event)
        try:
            yield
        finally:
            self._phase = Phase()

    def send(self, name: str, message: control.Said) -> None:
        """Send a message, now or when the client is connected again; none until it has its state back."""
        member = self.roster[name]
        if member.owes is not None and not isinstance(message, control.Load):
            return
        if isinstance(message, Message):
            try:
                message = _packed(self.channels[name], message)
            except DivergedError as error:
                self.expel(name, f"with it {error}", diverged=True)
                return
            self.ledger.count("down", message, name)
        if isinstance(message, AdapterDown):
            self.channels[name].memory.move(message.cut)
        if isinstance(message, control.Train):
            message = replace(message, memory=self.channels[name].memory.offer)
            member.clock.start()
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
        self.changed(self.roster)
        self.channels[name].memory.forget()
        self.channels[name].memory.rewind()
        self.send(name, control.Skip(0))

    def take_back(self, names: Collection[str]) -> None:
        """Have clients take the steps of the round again whose adapters have come."""
        for member in (self.roster[name] for name in names):
            if member.take_back():
                self.send(member.name, restoring(member))

    def expel(self, name: str, reason: str, *, diverged: bool = False) -> None:
        """Let a client take part no more. Raises as `Roster.check_quorum` does, where too few are left."""
        member = self.roster[name]
        if not member.expelled:
            member.expel(reason, diverged)
            self.listener.expel(name, reason)
            self.notice(member_notices.expelled(name, reason))
        self.changed(self.roster)
        self.roster.check_quorum()

    def turn_away(self, name: str, reason: str) -> None:
        """End a client's session: it cannot take part yet, or has stopped, and may come again."""
        problem = "" if reason == control.STOPPED else reason
        self.listener.turn_away(name, f"{reason}; mend it, and start this client again")
        if self.roster[name].not_ready(problem) or not problem:
            self.notice(member_notices.not_ready(name, reason))
        self.changed(self.roster)

    def wait(self, done: Callable[[str], bool], names: Sequence[str], seconds: float | None = None) -> None:
        """Wait until `done` holds for each client, except those given up, or late where enough are not."""
        now, waiting = self.roster.now, WaitingLine(self.roster, self.notice)
        began, late = now(), list[str]()
        while left := [n for n in names if not done(n) and n not in late and not self.roster.given_up(n)]:
            self.pump()
            if seconds is not None and now() - began > seconds:
                late += [name for name in left if self.roster.enough(without=[*late, name])][:1]
            waiting.tell(left)

    def pump(self, seconds: float = 0.5) -> None:
        """Take in everything that has come from the network; wait at most this long for it."""
        with suppress(queue.Empty):
            event = self.listener.events.get(timeout=seconds)
            while True:
                self._on_event(event)
                event = self.listener.events.get_nowait()

    def _on_event(self, event: Event) -> None:
        if event.kind == "woken":
            self.woken()
            return
        member = self.roster[event.name]
        if event.kind == "joined":
            member.join(event.session)
            self.channels[member.name].memory.forget()
        elif event.kind == "gone":
            self.expel(member.name, event.reason)
        elif event.session != member.session or member.expelled:
            return  # of a former session
        elif event.kind == "said":
            member.clock.heard(event.at)
            self._receive(member, event)
        elif event.kind == "back":
            member.connect(True)
            self.notice(member_notices.back(member.name))
        elif event.kind == "away":
            member.connect(False)
            self.notice(member_notices.lost(member.name, event.reason))
        elif event.kind == "expelled":
            self.expel(member.name, event.reason)
        if event.kind != "said":
            self.changed(self.roster)

    def _receive(self, member: Member, event: Event) -> None:
        """The way of one message: membership, gate, phase; one that fails a check expels its client."""
        name = member.name
        try:
            # Membership: a session opens with Ready and Loaded; muted clients are not heard.
            message = control.WIRE.decode(event.payload)
            if isinstance(message, control.Failed):
                says = f"it says: {plain(message.reason, SHOWN)}"
                if message.reason == control.DIVERGED:
                    raise NotFiniteError(says)
                self.turn_away(name, message.reason if message.reason == control.STOPPED else says)
                return
            if member.admits(message) and not isinstance(message, control.Ready | control.Loaded):
                # Nobody asked: it keeps its place, and of clients with many of them nothing is read.
                if not self._phase.awaits(name):
                    member.unasked.append(event)
                    return
                # The gate: shapes, types and values. Then the phase: the order, and the transaction.
                self._phase.take(name, self._checked(name, message))
            apart = member.ready(message, self.facts) if isinstance(message, control.Ready) else ""
        except ValueError as error:
            self.expel(name, str(error), diverged=isinstance(error, NotFiniteError))
        except Exception as error:  # that no check foresees: it ends this client's part, not the run
            self.expel(name, self.faults.keep(name, error))
        else:
            if isinstance(message, control.Ready):
                if apart:
                    self.turn_away(name, f"what it holds is not the server's: {plain(apart)}")
                    return
                self.kept.open(name)
                self.send(name, restoring(member))
            elif isinstance(message, control.Loaded):
                self._resynchronise(member, message.ok and member.exact)
        self.listener.used(event)

    def _checked(self, name: str, message: control.Said) -> control.Said:
        """Return a message unpacked and checked, and count it. Raises ValueError where it does not fit."""
        if isinstance(message, control.Started) and message.attempt != control.EVALUATION:
            self.channels[name].memory.accept(message.memory)  # before the messages that follow are unpacked
        if not isinstance(message, Message):
            return message
        checked = self.gate(name, message)
        if not isinstance(message, LocalLoss):
            self.ledger.count("up", message, name)
        return checked

    def _resynchronise(self, member: Member, restored: bool) -> None:
        """Have a client whose state is restored, or lost, take part from where the others are."""
        name = member.name
        if member.asked != member.wanted:  # what it had sent has completed its round meanwhile
            self.send(name, restoring(member))
            return
        member.take_part()
        if not restored:
            self.coordinator.blocks.forget(name)
            if (last := member.last) is not None:
                anew = self.coordinator.hand_out_anew(last.round, name, evaluate=member.evaluating)
                member.hand_out(anew, member.evaluating, anew=True)
            if member.done:
                self.notice(member_notices.state_lost(name))
                self.lost(name)
        for adapters in hand_outs_again(member):
            self.send(name, adapters)
        self.notice(member_notices.takes_part(name, member.rows))
        self.changed(self.roster)
        self._phase.returned(name)


def _packed(channel: Channel, message: Message) -> Message:
    """Return a message as it travels. Raises DivergedError where it is not finite."""
    if problem := not_finite(message):
        raise DivergedError(problem)
    return channel.pack(message)
