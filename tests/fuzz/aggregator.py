"""An aggregator, and all that a client or the server can send to it."""

from __future__ import annotations

import random

from fuzz.inputs import InputOverError, UnclearError
from fuzz.jobs import AGGREGATOR, NAMES
from fuzz.mutations import one_of_each
from fuzz.parties import SESSION, Script, aggregator_side
from fuzz.recording import Recording, recordings
from fuzz.scripts import Input, chosen, instead_of, read_input
from simulation.disk import MemoryDisk
from splitft.engines.network.aggregator_link import SERVER
from splitft.engines.network.control import End
from splitft.engines.network.transport.peers import Event
from splitft.errors import NetworkError

HONEST = NAMES[1]
HOSTILE = (NAMES[0], SERVER)


class AggregatorTarget:
    """anna or the server sends what the input says; bert does what is right, and nothing may happen to it."""

    def generate(self, rng: random.Random) -> bytes:
        aside = self._run.aside
        hostile = [place for place, one in enumerate(aside) if one.name in HOSTILE]
        said = aside[hostile[chosen([1.0 + place**2 for place in hostile], rng)]]
        own = [one.message for one in aside if one.name == said.name]
        others = rng.choice((own, own, one_of_each()))
        label, further = f"{said.name}: {said.label}", rng.choice((0, 0, 1, 3))
        return Input(AGGREGATOR, 1, label, further, instead_of(said, others, rng)).encode()

    def run(self, data: bytes) -> str:
        given = read_input(data)
        if given is None:
            return "no input"
        name, _, label = given.label.partition(": ")
        aside = self._run.aside
        places = [i for i, one in enumerate(aside) if (one.name, one.label) == (name, label)]
        if name not in HOSTILE or not places:
            return "no input"
        events = [_event(one.name, one.payload) for one in aside]
        script = Script()
        script.left.append(Event("joined", SERVER, SESSION.format(SERVER)))
        script.left += events[: places[0]] + [_event(name, payload) for payload in given.payloads]
        script.left += events[places[0] + 1 :][: given.further]
        return _outcome(name, script)

    @property
    def _run(self) -> Recording:
        return recordings(AGGREGATOR)[1]


def _event(name: str, payload: bytes) -> Event:
    return Event("said", name, SESSION.format(name), payload)


def _outcome(hostile: str, script: Script) -> str:
    """Run an aggregator on a script. Raises where it fails, or where the honest client is harmed."""
    notices: list[str] = []
    process = aggregator_side(script, MemoryDisk(lambda what: None))
    process.notice = notices.append
    try:
        end = process.serve()
    except InputOverError:
        pass
    except NetworkError:
        assert hostile == SERVER
        return "ended"
    else:
        assert hostile == SERVER and isinstance(end, End)
        return "over"
    if HONEST in script.expelled or any("internal" in line for line in notices):
        raise UnclearError(str(script.expelled))
    if not all(reason.isprintable() for reason in (*script.expelled.values(), *notices)):
        raise UnclearError(f"control characters: {notices}")
    return (
        "expelled" if script.expelled else "refused" if any("rejected" in n for n in notices) else "goes on"
    )
