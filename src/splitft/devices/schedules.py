"""Schedules of one server and its clients: a queue, barriers, or turns. Pure functions."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

Leg = tuple[float, float, float, float]  # seconds of computing, upload, the server's work, download


@dataclass
class Timeline:
    """A client's round in seconds: start, legs, the last computing, upload of the adapter.

    A schedule fills in the rest: the server's work for others while the client waits; its waiting for its
    turn or for others to arrive; and its end.
    """

    name: str
    start: float
    legs: Sequence[Leg]
    last: float
    upload: float
    queued: float = 0.0
    idle: float = 0.0
    finished: float = 0.0

    @property
    def compute(self) -> float:
        return sum(leg[0] for leg in self.legs) + self.last

    @property
    def transfer(self) -> float:
        return self.start + sum(leg[1] + leg[3] for leg in self.legs) + self.upload

    @property
    def server(self) -> float:
        return sum(leg[2] for leg in self.legs)


class Waits(dict[str, dict[str, float]]):
    """{client: {other: seconds}}: a client's waiting for others."""

    def add(self, client: Timeline, other: Timeline, seconds: float) -> None:
        """Note that a client waited for another."""
        if seconds > 0 and client is not other:
            waits = self.setdefault(client.name, {})
            waits[other.name] = waits.get(other.name, 0.0) + seconds


def queue(scripts: Sequence[Timeline], pairs: bool) -> Waits:
    """One queue, in order of arrival; ties go to the client that comes first in order."""
    waits = Waits()
    place = [0] * len(scripts)
    arrivals: list[tuple[float, int]] = []
    served: list[tuple[float, float, Timeline]] = []  # from, until, client
    free = 0.0

    def go_on(client: int, now: float) -> None:
        script = scripts[client]
        if place[client] < len(script.legs):
            computing, upload, _, _ = script.legs[place[client]]
            heapq.heappush(arrivals, (now + computing + upload, client))
        else:
            script.finished = now + script.last + script.upload

    for client, script in enumerate(scripts):
        go_on(client, script.start)
    while arrivals:
        arrived, client = heapq.heappop(arrivals)
        script = scripts[client]
        _, _, work, download = script.legs[place[client]]
        begun = max(arrived, free)
        free = begun + work
        if begun > arrived:
            script.queued += begun - arrived
            for since, until, other in reversed(served) if pairs else ():
                if until <= arrived:
                    break
                waits.add(script, other, min(until, begun) - max(since, arrived))
        if pairs:
            served.append((begun, free, script))
        place[client] += 1
        go_on(client, free + download)
    return waits


def barriers(scripts: Sequence[Timeline], pairs: bool) -> Waits:
    """The server starts a leg when all who still have one are there, and answers them after all its work."""
    waits = Waits()
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
            script = scripts[client]
            _, _, work, download = script.legs[place]
            script.idle += begun - arrived[client]
            script.queued += total - work
            now[client] = begun + total + download
            if pairs:
                waits.add(script, scripts[late], begun - arrived[client])
                for other in members:
                    waits.add(script, scripts[other], scripts[other].legs[place][2])
    for script, time in zip(scripts, now, strict=True):
        script.finished = time + script.last + script.upload
    return waits


def turns(scripts: Sequence[Timeline], pairs: bool) -> Waits:
    """One client after another, each from its download to its upload."""
    waits = Waits()
    now = 0.0
    for place, script in enumerate(scripts):
        script.idle = now
        for other in scripts[:place] if pairs else ():
            waits.add(script, other, other.compute + other.transfer + other.server)
        now += script.compute + script.transfer + script.server
        script.finished = now
    return waits
