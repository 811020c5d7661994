"""The faults of a schedule, drawn from its seed: what happens to whom, and after how many steps."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from simulation.network import Connection, Network
from simulation.party import Party
from simulation.world import World

# Weights of the kinds of faults.
KINDS = {
    "kill": 4, "power": 4, "kill at its disk": 2, "power at its disk": 4, "break": 5, "silence": 2, "half": 3,
    "stall": 2, "drop": 2, "duplicate": 2, "corrupt": 2, "slow": 2,
}  # fmt: skip
NUMBERS = (0, 1, 1, 2, 2, 3, 3, 4, 5, 7)  # of faults in a schedule


def delays(world: World) -> Callable[[], float]:
    """Return the delays of frames in a schedule: short or long, even or with outliers."""
    draw = world.random
    base, spread = 10 ** draw.uniform(-4, -1.3), draw.choice((0.1, 1.0, 5.0))
    outliers = draw.choice((0.0, 0.0, 0.02))

    def delay() -> float:
        slow = draw.uniform(0.1, 2.0) if outliers and draw.random() < outliers else 0.0
        return base * (1.0 + spread * draw.random()) + slow

    return delay


def plan(world: World, network: Network, parties: Sequence[Party], steps: int, longest: float) -> None:
    """Plan faults among the first `steps` steps. longest: seconds until a party is started again."""
    draw = world.random
    planned: list[tuple[int, Callable[[], None]]] = []
    kinds, weights = list(KINDS), list(KINDS.values())
    for _ in range(draw.choice(NUMBERS)):
        kind, party = draw.choices(kinds, weights)[0], draw.choice(parties)
        planned.append((draw.randint(1, steps), partial(_happen, world, network, kind, party, longest)))
    world.due.extend(sorted(planned, key=lambda one: one[0]))


def lose(world: World, seed: int, clients: Sequence[Party], spare: int, steps: int) -> None:
    """Plan that clients are lost for good: none, or up to `spare`, without which the run can go on."""
    draw = random.Random(f"lost {seed}")  # of its own: the schedules without a loss stay as they are
    lost = draw.sample(clients, draw.choice((0, 0, spare, draw.randint(0, spare))))
    planned = [
        (draw.randint(1, steps), partial(one.die, draw.choice(("kill", "power")), None)) for one in lost
    ]
    world.due = deque(sorted([*world.due, *planned], key=lambda one: one[0]))


def _happen(world: World, network: Network, kind: str, party: Party, longest: float) -> None:
    draw = world.random
    if kind in ("kill", "power"):
        party.die(kind, draw.uniform(0.05, longest))
        return
    if kind.endswith("disk"):
        party.doomed = kind.partition(" ")[0]
        return
    if kind == "slow":
        seconds, until = draw.uniform(0.01, longest), world.loop.now + draw.uniform(0.1, 5.0)
        party.pause = lambda: draw.uniform(0.0, seconds) if world.loop.now < until else 0.0
        return
    connections = network.of(party.name)
    if not connections:
        return
    connection: Connection = draw.choice(connections)
    pipe = draw.choice((connection.up, connection.down))
    world.note("fault", f"{kind} on {pipe.name}")
    if kind == "break":
        connection.break_(network.delay(), network.delay())
    elif kind == "silence":
        connection.break_(None, None)
    elif kind == "half":
        told = [network.delay(), draw.choice((None, draw.uniform(0.1, 10.0)))]
        draw.shuffle(told)
        connection.break_(*told)
    elif kind == "stall":
        pipe.stalled_until = world.loop.now + draw.uniform(0.5, 12.0)
    else:
        pipe.fault = kind
