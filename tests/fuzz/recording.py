"""An undisturbed run of real parties in one thread: what each of them says, in order."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from greenlet import getcurrent, greenlet

from fuzz.jobs import AGGREGATOR, MODES
from fuzz.parties import (
    SESSION,
    Begin,
    Line,
    Script,
    ServerSide,
    aggregator_side,
    client_side,
    known_keys,
    welcome,
)
from splitft.engines.network.aggregator_link import SERVER
from splitft.engines.network.control import WIRE, End, Welcome, packed
from splitft.engines.network.transport.peers import Event


@dataclass(frozen=True)
class Said:
    """One message of an undisturbed run. label: kind and count, of its client."""

    name: str
    label: str
    payload: bytes
    message: Any


@dataclass
class Recording:
    """An undisturbed run from `begin` on.

    up: of all clients, and of the aggregator; down: to each client; aside: to the aggregator.
    """

    begin: Begin
    up: list[Said] = field(default_factory=list)
    down: dict[str, list[Said]] = field(default_factory=lambda: defaultdict(list))
    aside: list[Said] = field(default_factory=list)
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, place: list[Said], name: str, payload: bytes) -> None:
        """Add a message to one of the lists."""
        message = WIRE.decode(payload)
        kind = type(message).__name__
        self._counts[name, kind] += 1
        place.append(Said(name, f"{kind} {self._counts[name, kind]}", payload, message))


class Exchange(Script):
    """A listener whose clients are in this thread, each with a stack of its own."""

    def __init__(self, mode_name: str, begin: Begin) -> None:
        super().__init__()
        self.recording = Recording(begin)
        mode = MODES[mode_name]
        self.names = mode.names
        self.disks = {name: begin.disk_of(name) for name in (*mode.names, AGGREGATOR)}
        self._lines: dict[str, Line] = {}
        self._stacks: dict[str, Any] = {}
        for name in mode.names:
            main = getcurrent()
            line = Line(partial(self._heard, name), lambda main=main: main.switch())  # type: ignore[misc]
            line.put(Welcome(**{**vars(welcome(mode)), "session": SESSION.format(name)}))
            self._lines[name] = line
            handed_in = partial(self._heard_aside, name)
            self._stacks[name] = greenlet(client_side(mode, name, line, self.disks[name], handed_in).run)
            self.put(Event("joined", name, SESSION.format(name)))
        self._aggregator = Aside(self)
        self._at_aggregator = greenlet(self._aggregator.serve)

    def idle(self) -> None:
        if self._aggregator.left:
            self._at_aggregator.switch()
        for name in self.names:
            if not self.left and self._lines[name].left:
                self._stacks[name].switch()
        assert self.left, "every party waits"

    def send(self, name: str, payload: bytes, session: str | None = None) -> None:
        self.recording.note(self.recording.down[name], name, payload)
        self._lines[name].put(payload)

    def to_aggregator(self, payload: bytes) -> None:
        self._heard_aside(SERVER, payload)

    def expel(self, name: str, reason: str) -> None:
        raise AssertionError(f"{name} is expelled from an undisturbed run: {reason}")

    turn_away = expel

    def end(self) -> None:
        """Tell the clients that the run is over."""
        for name in self.names:
            self.send(name, packed(End("the run is complete", True)))
            self._stacks[name].switch()
            assert self._stacks[name].dead

    def _heard(self, name: str, session: str, payload: bytes) -> None:
        self.recording.note(self.recording.up, name, payload)
        self.put(Event("said", name, session, payload))

    def _heard_aside(self, name: str, payload: bytes) -> None:
        self.recording.note(self.recording.aside, name, payload)
        self._aggregator.put(Event("said", name, SESSION.format(name), payload))


class Aside(Script):
    """The aggregator's listener."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self._exchange, self._main = exchange, getcurrent()

    def serve(self) -> None:
        """Be the aggregator."""
        aggregator_side(self, self._exchange.disks[AGGREGATOR]).serve()

    def idle(self) -> None:
        self._main.switch()

    def send(self, name: str, payload: bytes, session: str | None = None) -> None:
        self._exchange._heard(AGGREGATOR, "", payload)

    def expel(self, name: str, reason: str) -> None:
        raise AssertionError(f"{name} is expelled from an undisturbed run: {reason}")


@cache
def recordings(mode_name: str) -> tuple[Recording, Recording]:
    """Return the runs of a mode: its first round, and all that follows it in other processes."""
    mode = MODES[mode_name]
    with known_keys():
        first = Exchange(mode_name, Begin())
        side = ServerSide(mode, first)
        record = next(iter(side.rounds(first.recording.begin)))
        second = Exchange(mode_name, Begin(record, side.state(), first.disks))
        deque(ServerSide(mode, second).rounds(second.recording.begin), maxlen=0)
        second.end()
    return first.recording, second.recording
