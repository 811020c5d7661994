"""Schedules of one server and its clients: a queue, barriers, or turns. Pure functions."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

Leg = tuple[float, float, float, float]  # seconds of computing, upload, the server's work, download


@dataclass(frozen=True)
class Timeline:
    """A client's round in seconds: start, legs, the last computing, upload of the adapter."""

    name: str
    start: float
    legs: Sequence[Leg]
    last: float
    upload: float

    @property
    def compute(self) -> float:
        return sum(leg[0] for leg in self.legs) + self.last

    @property
    def transfer(self) -> float:
        return self.start + sum(leg[1] + leg[3] for leg in self.legs) + self.upload

    @property
    def server(self) -> float:
        return sum(leg[2] for leg in self.legs)


@dataclass
class Outcome:
    """By client: when it finished, and what it waited before; behind: {client: {other: seconds}}."""

    finished: list[float]
    queued: list[float]
    idle: list[float]
    behind: dict[int, dict[int, float]] = field(default_factory=dict)

    def wait(self, client: int, other: int, seconds: float) -> None:
        """Note that a client waited for another."""
        if seconds > 0 and client != other:
            waits = self.behind.setdefault(client, {})
            waits[other] = waits.get(other, 0.0) + seconds


def _outcome(count: int) -> Outcome:
    return Outcome([0.0] * count, [0.0] * count, [0.0] * count)


def queue(scripts: Sequence[Timeline], pairs: bool) -> Outcome:
    """One queue, in order of arrival; ties go to the client that comes first in order."""
    outcome = _outcome(len(scripts))
    place = [0] * len(scripts)
    arrivals: list[tuple[float, int]] = []
    served: list[tuple[float, float, int]] = []  # from, until, client
    free = 0.0

    def go_on(client: int, now: float) -> None:
        script = scripts[client]
        if place[client] < len(script.legs):
            computing, upload, _, _ = script.legs[place[client]]
            heapq.heappush(arrivals, (now + computing + upload, client))
        else:
            outcome.finished[client] = now + script.last + script.upload

    for client, script in enumerate(scripts):
        go_on(client, script.start)
    while arrivals:
        arrived, client = heapq.heappop(arrivals)
        _, _, work, download = scripts[client].legs[place[client]]
        begun = max(arrived, free)
        free = begun + work
        if begun > arrived:
            outcome.queued[client] += begun - arrived
            for since, until, other in reversed(served) if pairs else ():
                if until <= arrived:
                    break
                outcome.wait(client, other, min(until, begun) - max(since, arrived))
        if pairs:
            served.append((begun, free, client))
        place[client] += 1
        go_on(client, free + download)
    return outcome


def barriers(scripts: Sequence[Timeline], pairs: bool) -> Outcome:
    """The server starts a leg when all who still have one are there, and answers them after all its work."""
    outcome = _outcome(len(scripts))
    now = [script.start for script in scripts]
    for place in range(max((len(script.legs) for script in scripts), default=0)):
        members = [client for client, script in enumerate(scripts) if place < len(script.legs)]
        arrived = {}
        for client in members:
            computing, upload, _, _ = scripts[client].legs[place]
            arrived[client] = now[client] + computing + upload
        begun = max(arrived.values())
        late = next(client for client in members if arrived[client] == begun)
        total = sum(scripts[client].legs[place][2] for client in members)
        for client in members:
            _, _, work, download = scripts[client].legs[place]
            outcome.idle[client] += begun - arrived[client]
            outcome.queued[client] += total - work
            now[client] = begun + total + download
            if pairs:
                outcome.wait(client, late, begun - arrived[client])
                for other in members:
                    outcome.wait(client, other, scripts[other].legs[place][2])
    outcome.finished = [time + script.last + script.upload for time, script in zip(now, scripts, strict=True)]
    return outcome


def turns(scripts: Sequence[Timeline], pairs: bool) -> Outcome:
    """One client after another, each from its download to its upload."""
    outcome = _outcome(len(scripts))
    now = 0.0
    lengths: list[float] = []
    for client, script in enumerate(scripts):
        outcome.idle[client] = now
        for other, seconds in enumerate(lengths) if pairs else ():
            outcome.wait(client, other, seconds)
        lengths.append(script.compute + script.transfer + script.server)
        now += lengths[-1]
        outcome.finished[client] = now
    return outcome
