"""A server, and all that a client can send to it, or an aggregator: membership, gate, phases, steps."""

from __future__ import annotations

import random
from collections.abc import Sequence

from fuzz.inputs import InputOverError, UnclearError
from fuzz.jobs import AGGREGATOR, MASKED, MODES, NAMES
from fuzz.mutations import one_of_each
from fuzz.parties import SESSION, Begin, Script, ServerSide
from fuzz.recording import Recording, Said, recordings
from fuzz.scripts import Input, chosen, instead_of, read_input
from splitft.engines.network.control import Average
from splitft.engines.network.transport.peers import Event
from splitft.errors import NetworkError
from splitft.wire.messages import Activations, AdapterUp, HeldOut, TailGradients

HOSTILE = NAMES[0]
COMPUTED = (Activations, HeldOut, TailGradients, AdapterUp)  # what costs milliseconds at the server


class ServerTarget:
    """anna sends what the input says; bert does what is right, and nothing may happen to it."""

    hostile = HOSTILE
    parts: tuple[int, ...] = (0, 1)

    def __init__(self, modes: Sequence[str] = tuple(MODES)) -> None:
        self._modes = modes
        self._places: dict[tuple[str, int], list[int]] = {}  # of the hostile client's messages
        self._costs: dict[tuple[str, int], list[float]] = {}
        self._others = one_of_each()
        self.told = ""  # why the hostile client was expelled by the last input

    def generate(self, rng: random.Random) -> bytes:
        mode, part = rng.choice(self._modes), rng.choice(self.parts)
        run = recordings(mode)[part]
        if (mode, part) not in self._places:
            self._find_places(mode, part, run.up)
        place = self._places[mode, part][chosen(self._costs[mode, part], rng)]
        said = run.up[place]
        own = [one.message for one in run.up if one.name == self.hostile]
        others = rng.choice((own, own, self._others))
        further = rng.choice((0, 0, 0, 1, 3))
        return Input(mode, part, said.label, further, instead_of(said, others, rng)).encode()

    def run(self, data: bytes) -> str:
        given = read_input(data)
        if given is None or given.mode not in MODES or given.part not in self.parts:
            return "no input"
        run = recordings(given.mode)[given.part]
        places = [i for i, one in enumerate(run.up) if (one.name, one.label) == (self.hostile, given.label)]
        if not places:
            return "no input"
        script = Script()
        events = [_event(one.name, one.payload) for one in run.up]
        script.left += [Event("joined", name, SESSION.format(name)) for name in MODES[given.mode].names]
        script.left += events[: places[0]]
        script.requests = [one.message.request for one in run.aside if isinstance(one.message, Average)]
        script.left += [_event(self.hostile, payload) for payload in given.payloads]
        script.left += events[places[0] + 1 :][: given.further]
        return self.outcome(given.mode, run, script)

    def outcome(self, mode: str, run: Recording, script: Script) -> str:
        """Run a server on a script. Raises where it ends, or where the honest client is harmed."""
        complete = over(ServerSide(MODES[mode], script), Begin(run.begin.last, run.begin.state))
        self.told = script.expelled.get(HOSTILE, "")
        # Without a client another sum is begun, which the others' recorded answers are not of.
        answers_fit = MODES[mode].name != MASKED or HOSTILE not in {*script.expelled, *script.turned_away}
        for name in MODES[mode].names[1:] if answers_fit else ():
            if reason := script.expelled.get(name) or script.turned_away.get(name):
                raise UnclearError(f"{name} is out: {reason}")
        if self.told:
            return "expelled"
        return "turned away" if HOSTILE in script.turned_away else "complete" if complete else "goes on"

    def _find_places(self, mode: str, part: int, up: Sequence[Said]) -> None:
        cost, places, costs = 1.0, list[int](), list[float]()
        for place, said in enumerate(up):
            if said.name == self.hostile:
                places.append(place)
                costs.append(cost)
            cost += 10.0 * isinstance(said.message, COMPUTED)
        self._places[mode, part], self._costs[mode, part] = places, costs


def _event(name: str, payload: bytes) -> Event:
    return Event("said", name, SESSION.format(name), payload)


def over(side: ServerSide, begin: Begin) -> bool:
    """Run a server on its script, to the end of the run or of the script; return which. Raises on a fault."""
    side.faults_path.unlink(missing_ok=True)
    complete = False
    try:
        for _ in side.rounds(begin):
            pass
        complete = True
    except InputOverError:
        pass
    if side.faults_path.exists():
        raise UnclearError(side.faults_path.read_text())
    return complete


class AggregatorAnswersTarget(ServerTarget):
    """The aggregator sends what the input says; the run may end by one error."""

    hostile = AGGREGATOR
    parts = (1,)

    def __init__(self) -> None:
        super().__init__((AGGREGATOR,))

    def outcome(self, mode: str, run: Recording, script: Script) -> str:
        try:
            complete = over(ServerSide(MODES[mode], script), Begin(run.begin.last, run.begin.state))
        except NetworkError as error:
            if not str(error).isprintable() or len(str(error)) > 1500:
                raise UnclearError(repr(error)) from error
            return f"refused: {type(error).__name__}"
        reasons = (*script.expelled.values(), *script.turned_away.values())
        if not all(reason.isprintable() for reason in reasons):
            raise UnclearError(f"{reasons}")
        return "a client is expelled" if reasons else "complete" if complete else "goes on"
