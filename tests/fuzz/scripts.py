"""An input for a party: a place in an undisturbed run, and what comes there instead."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fuzz.mutations import damaged, mutate
from fuzz.recording import Said

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Input:
    """`mode|part|label|further`, a line; then the payloads, each after its length.

    Attributes:
        part: 0: the run's first round; 1: the rest of it.
        label: Of the message in whose place the payloads come.
        further: Messages of the undisturbed run that follow.
    """

    mode: str
    part: int
    label: str
    further: int
    payloads: tuple[bytes, ...]

    def encode(self) -> bytes:
        head = f"{self.mode}|{self.part}|{self.label}|{self.further}\n".encode()
        return head + b"".join(_LENGTH.pack(len(one)) + one for one in self.payloads)


def read_input(data: bytes) -> Input | None:
    """Return the input that bytes stand for, None where they are none."""
    head, _, rest = data.partition(b"\n")
    try:
        mode, part, label, further = head.decode().split("|")
        numbers = int(part), int(further)
    except ValueError:
        return None
    payloads = []
    while rest:
        (size,) = _LENGTH.unpack(rest[:4].ljust(4, b"\0"))
        payloads.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    return Input(mode, numbers[0], label, numbers[1], tuple(payloads))


def instead_of(said: Said, others: Sequence[Any], rng: random.Random) -> tuple[bytes, ...]:
    """Return what comes in the place of a message.

    others: messages of the same sender, and one of each kind there is.
    """
    message = said.message
    match rng.randrange(20):
        case 0:  # again, or nothing
            return (said.payload,) * rng.choice((0, 2, 3))
        case 1 | 2:  # another message, as it is
            return (_payload(rng.choice(others)),)
        case 3 | 4 | 5:
            return (damaged(_here(rng.choice(others), message), rng, others),)
        case 6 | 7:
            return (mutate(rng, [said.payload, _payload(rng.choice(others))]),)
        case 8:  # first what is right, then something else
            return said.payload, damaged(_here(rng.choice(others), message), rng, others)
        case _:
            return (damaged(message, rng, others),)


def _here(message: Any, place: Any) -> Any:
    """Return a message of the round, the step and the micro-step of another one."""
    same = {
        name: getattr(place, name) for name in ("round", "step", "micro_step", "done") if hasattr(place, name)
    }
    return replace(message, **{name: value for name, value in same.items() if hasattr(message, name)})


def _payload(message: Any) -> bytes:
    from splitft.engines.network.control import packed

    return packed(message)


def chosen(costs: Sequence[float], rng: random.Random) -> int:
    """Return a place, seldom one that costs much to come to."""
    return rng.choices(range(len(costs)), [1 / cost for cost in costs])[0]
