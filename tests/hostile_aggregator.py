"""A hostile aggregator: the project's own, over its own listener, that lies in named ways from round 2 on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitft.engines.network.aggregator_link import SERVER
from splitft.engines.network.control import (
    WIRE,
    Averaged,
    End,
    Rejected,
    Said,
    Taken,
    Train,
    Unaveraged,
    packed,
)
from splitft.engines.network.transport.listener import Listener
from splitft.engines.network.transport.peers import Event

CONTROL = "\x1b]52;c;cm0gLXJm\x07\x1b[2J[bold red]read this[/]"  # fills a clipboard, clears a screen
SHOWN = "]52;c;cm0gLXJm  [2J[bold red]read this[/]"
VICTIM = "bert"

Sent = tuple[str, Said | bytes | None]  # whom it goes to; None: the client is refused
Lies = Callable[[Any], Sequence[Sent]]  # what goes out instead of a message to the server


class LyingListener(Listener):
    """Lies in the place of each message to the server, once one round has its average. lies: what it says."""

    last: ClassVar[LyingListener]

    def __init__(self, lies: Lies, *given: Any) -> None:
        super().__init__(*given)
        self._lies = lies
        self._averaged = False
        self.said_once = False
        self._refused = threading.Event()  # a client that was expelled has dialled again, and heard it
        refusal = self._peers.refusal

        def refused(hello: Any) -> Any:
            found = refusal(hello)
            if found is not None:
                self._refused.set()
            return found

        self._peers.refusal = refused  # type: ignore[method-assign]
        LyingListener.last = self

    def stop(self) -> None:
        """End the aggregator, where the server could not tell it that the run is over."""
        self.events.put(Event("said", SERVER, payload=packed(End("", False))))

    def send(self, name: str, payload: bytes, session: str | None = None) -> None:
        message = WIRE.decode(payload)
        if not self._averaged or isinstance(message, End):
            self._averaged = self._averaged or isinstance(message, Averaged)
            super().send(name, payload, session)
            return
        for to, told in self._lies(message):
            if told is None:
                self.expel(to, CONTROL)
                self._refused.wait(60)  # else the run could be complete before
            else:
                super().send(to, told if isinstance(told, bytes) else packed(told), None)


def of(kind: type, *told: Callable[[Any], Sent | Said | bytes]) -> Lies:
    """In the place of each message of one kind, say these. told: functions of it."""

    def lies(message: Any) -> list[Sent]:
        if not isinstance(message, kind):
            return [(SERVER, message)]
        said = [one(message) for one in told]
        return [one if isinstance(one, tuple) else (SERVER, one) for one in said]

    return lies


def once(kind: type, *told: Callable[[Any], Sent | Said | bytes]) -> Lies:
    """As `of`, for the first message of the kind alone."""
    lie = of(kind, *told)

    def lies(message: Any) -> list[Sent]:
        if not isinstance(message, kind) or LyingListener.last.said_once:
            return [(SERVER, message)]
        LyingListener.last.said_once = True
        return lie(message)

    return lies


def averages(change: Callable[[Tensor], Tensor]) -> Lies:
    """Change the average of the first block."""
    return of(Averaged, lambda m: replace(m, values=(change(m.values[0]), *m.values[1:])))


def about_victim(change: Callable[[Taken], Said | bytes]) -> Lies:
    """Lie about one client's update."""

    def lies(message: Any) -> list[Sent]:
        its = isinstance(message, Taken) and message.client == VICTIM
        return [(SERVER, change(message) if its else message)]

    return lies


@dataclass(frozen=True)
class Lie:
    """One lie. line: pattern of the one line with which the run ends, or for which the client is expelled."""

    lies: Lies
    line: str


# The server ends the run: either the aggregator or nobody is to blame.
ENDS: dict[str, Lie] = {
    "NaN": Lie(averages(lambda v: v * float("nan")), "average of round 2: block 0: values that are not fin"),
    "an infinity": Lie(averages(lambda v: torch.cat([v[1:], v[:1] / 0])), "block 0: .* not finite"),
    "further than steps reach": Lie(averages(lambda v: v + 0.5), "block 0, .*: further than any average"),
    "a block is missing": Lie(
        of(Averaged, lambda m: replace(m, blocks=m.blocks[1:], values=m.values[1:])), "averages of blocks"
    ),
    "a block more": Lie(
        of(Averaged, lambda m: replace(m, blocks=(*m.blocks, 9), values=(*m.values, m.values[0]))),
        "averages of blocks .*9. where",
    ),
    "a block twice": Lie(
        of(Averaged, lambda m: replace(m, blocks=(0, *m.blocks), values=(m.values[0], *m.values))),
        r"averages of blocks \[0, 0",
    ),
    "values are missing": Lie(of(Averaged, lambda m: replace(m, values=())), "averages of blocks"),
    "a value more": Lie(averages(lambda v: torch.cat([v, v[:1]])), "block 0: .*whole rank"),
    "half precision": Lie(averages(torch.Tensor.half), "block 0: values of torch.float16"),
    "an update of a stranger": Lie(
        of(Taken, lambda m: replace(m, client=CONTROL)), "has an update by .*read this.*no client of this run"
    ),
    "a digest of another form": Lie(
        of(Taken, lambda m: replace(m, digest=torch.zeros(3))), "a digest of another form"
    ),
    "a stranger is refused": Lie(
        of(Averaged, lambda m: Rejected("eve", "x")), "refuses what was sent by 'eve', who is no client"
    ),
    "nobody's update is bad": Lie(
        of(Averaged, lambda m: Unaveraged(m.request, (), ())), "will not average nobody of this request"
    ),
    "a stranger's update is bad": Lie(
        of(Averaged, lambda m: Unaveraged(m.request, ("eve",), ("x",))), "will not average eve of this"
    ),
    "it refuses the server": Lie(of(Averaged, lambda m: Rejected("", CONTROL)), "aggregator: .*read this"),
    "the end in the middle": Lie(
        lambda message: [(SERVER, End(CONTROL, True))], "the aggregator: .*read this"
    ),
    "another message": Lie(of(Averaged, lambda m: Train(2, 1)), "the aggregator sent Train"),
    "noise": Lie(of(Averaged, lambda m: b"\xff" * 100), "the aggregator sent what cannot be read"),
    "48 MB": Lie(
        of(Averaged, lambda m: replace(m, values=(torch.zeros(12 << 20),))), "breaks the protocol: a payload"
    ),
}  # fmt: skip

# One client is out on the aggregator's word, and the others go on as if it had not been in round 2.
BLAMES: dict[str, Lie] = {
    "an innocent client is refused": Lie(
        of(Averaged, lambda m: Rejected(VICTIM, CONTROL), lambda m: m),
        "refuses what it handed in, and says: ",
    ),
    "reasons without end": Lie(
        of(Taken, *[lambda m, i=i: Rejected(VICTIM, f"{CONTROL} {i}") for i in range(300)], lambda m: m),
        "refuses what it handed in, and says: .*read this.* 0$",
    ),
    "an innocent client's update is bad": Lie(
        once(Averaged, lambda m: Unaveraged(m.request, (VICTIM,), (CONTROL,)), lambda m: m),
        "refuses what it handed in, and says: ",
    ),
    "another digest": Lie(
        about_victim(lambda m: replace(m, digest=m.digest + 1)),
        "it handed in another update to the aggregator than it stated, by the aggregator's word",
    ),
    "other sizes": Lie(
        about_victim(lambda m: replace(m, sizes=m.sizes[1:])), "by the aggregator's word it handed in blocks"
    ),
    "other blocks": Lie(
        about_victim(lambda m: replace(m, blocks=tuple(1 << 40 for _ in m.blocks))),
        "by the aggregator's word it handed in blocks",
    ),
}  # fmt: skip

# One client ends with this line, says so to the server, and the others go on.
ENDS_A_CLIENT: dict[str, Lie] = {
    "it is refused": Lie(
        of(Taken, lambda m: (VICTIM, None), lambda m: m),
        "the aggregator refuses this client: it was expelled: .*read this",
    ),
    "2 MB": Lie(
        of(Taken, lambda m: (VICTIM, bytes(2 << 20)), lambda m: m),
        "the aggregator: .* breaks the protocol: a payload of 2097152 bytes",
    ),
}

# Nothing comes of it: the run is that with an honest one, bit by bit.
IGNORED: dict[str, Lies] = {
    "answers to no request": of(
        Averaged,
        *[lambda m, i=i: replace(m, request=f"{i}", values=()) for i in range(20)],
        lambda m: replace(m, request="", values=(torch.zeros(3),)),
        lambda m: Unaveraged("", (VICTIM,), ("x",)),
        lambda m: m,
        lambda m: replace(m, values=(torch.zeros(3),)),
    ),
    "an update that nobody has handed in": of(
        Taken, lambda m: replace(m, ticket=m.ticket + 1, digest=m.digest + 1, sizes=(1 << 62,)), lambda m: m
    ),
    "requests to a client": of(
        Taken,
        *[lambda m, told=told: (m.client, told)
          for told in (Train(2, 1), End(CONTROL, True), b"\xff" * 100, Rejected("", CONTROL))],
        lambda m: m,
    ),
}  # fmt: skip
