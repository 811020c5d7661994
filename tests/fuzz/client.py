"""A client, and all that a server can send to it: its gate, its policy, its steps and evaluations."""

from __future__ import annotations

import random
from collections.abc import Sequence

from fuzz.inputs import InputOverError, UnclearError
from fuzz.jobs import MODES, NAMES
from fuzz.mutations import one_of_each
from fuzz.parties import SESSION, Line, client_side, known_keys, welcome
from fuzz.recording import Recording, recordings
from fuzz.scripts import Input, chosen, instead_of, read_input
from splitft.engines.network.control import WIRE, End, Evaluate, Train, Welcome
from splitft.errors import DivergedError, NetworkError, PolicyError
from splitft.wire.messages import Activations, AdapterDown, Gradients, HeldOut, TrunkOutput

CLIENT = NAMES[0]
COMPUTED = (Gradients, TrunkOutput, AdapterDown, Train, Evaluate)  # what costs milliseconds at a client


class ClientTarget:
    """The server sends what the input says."""

    def __init__(self, modes: Sequence[str] = tuple(MODES)) -> None:
        self._modes = modes
        self._costs: dict[tuple[str, int], list[float]] = {}
        self._others = one_of_each()
        self.told = ""  # with what the last input was refused

    def generate(self, rng: random.Random) -> bytes:
        mode, part = rng.choice(self._modes), rng.randrange(2)
        down = recordings(mode)[part].down[CLIENT]
        if (mode, part) not in self._costs:
            costs, cost = [], 1.0
            for one in down:
                costs.append(cost)
                cost += 10.0 * isinstance(one.message, COMPUTED)
            self._costs[mode, part] = costs
        said = down[chosen(self._costs[mode, part], rng)]
        others = rng.choice(([one.message for one in down], [one.message for one in down], self._others))
        further = rng.choice((0, 0, 0, 1, 3))
        return Input(mode, part, said.label, further, instead_of(said, others, rng)).encode()

    def run(self, data: bytes) -> str:
        given = read_input(data)
        if given is None or given.mode not in MODES or given.part not in (0, 1):
            return "no input"
        run = recordings(given.mode)[given.part]
        down = run.down[CLIENT]
        places = [i for i, one in enumerate(down) if one.label == given.label]
        if not places:
            return "no input"
        items = [one.payload for one in down]
        script = items[: places[0]] + list(given.payloads) + items[places[0] + 1 :][: given.further]
        outcome, self.told = _outcome(given.mode, run, script)
        return outcome


def _outcome(mode: str, run: Recording, script: Sequence[bytes]) -> tuple[str, str]:
    """Run a client on what its server sends; return the outcome, and the error's line.

    Raises where it ends by no error that says what is wrong.
    """
    sent: list[bytes] = []

    def over() -> None:
        raise InputOverError

    line = Line(lambda session, payload: sent.append(payload), over)
    line.put(Welcome(**{**vars(welcome(MODES[mode])), "session": SESSION.format(CLIENT)}))
    line.left += script
    site = client_side(MODES[mode], CLIENT, line, run.begin.disk_of(CLIENT))
    try:
        with known_keys():
            end = site.run()
    except InputOverError:
        outcome, told = "goes on", ""
    except (NetworkError, PolicyError, DivergedError) as error:
        if not isinstance(error.__cause__, ValueError | None) or not str(error).isprintable():
            raise UnclearError(f"{error!r}") from error
        outcome, told = f"refused: {type(error).__name__}", str(error)
    else:
        assert isinstance(end, End) and end.reason.isprintable()
        outcome, told = "over", end.reason
    if MODES[mode].job.labels == "client":
        for payload in sent:
            said = WIRE.decode(payload)
            assert not isinstance(said, HeldOut), "held-out ids leave a client that keeps its labels"
            assert not (
                isinstance(said, Activations) and (said.labels is not None or said.input_ids is not None)
            )
    return outcome, told
