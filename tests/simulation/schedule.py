"""One schedule: a run of a mode under the faults of a seed, from its start to the end of all parties."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache, partial
from unittest import mock

from simulation import faults
from simulation.judges import documented_end, judge, sums_apart
from simulation.mains import Outcome, average, serve, take_part
from simulation.modes import ALL, Mode
from simulation.network import Network
from simulation.party import Party
from simulation.world import StuckError, World

AFTER_FAULTS = 400.0  # virtual seconds in which a run must end


@dataclass
class Result:
    """What came of a schedule. problem: what a judge found; empty: nothing."""

    mode: Mode
    seed: int
    problem: str
    outcome: Outcome
    world: World
    kills: int

    def trace(self) -> str:
        """Return all that happened, line by line."""
        return "\n".join(f"{at:10.4f}  {who:18s} {what}" for at, who, what in self.world.trace)


@cache
def undisturbed(name: str) -> Result:
    """Return the run of a mode in which nothing happens."""
    result = simulate(name, 0, disturbed=False)
    assert not result.problem, f"{name}: {result.problem}\n{result.trace()}"
    return result


def simulate(name: str, seed: int, *, disturbed: bool = True) -> Result:
    """Run a schedule, and have it judged."""
    mode = ALL[name]
    whole = undisturbed(name) if disturbed else None
    world, outcome = World(seed), Outcome()
    network = Network(world, faults.delays(world) if disturbed else lambda: 0.01)
    parties: list[Party] = []

    def left() -> list[str]:
        """Return who is to end by itself and has not: of clients not one that came when all was over."""
        late = parties[0].done
        return [p.name for p in parties if not p.done and not (late and p.started > outcome.completed_at)]

    def over() -> None:
        if not left():
            world.stop()
        elif parties[0].done and not mode.strict:  # it waits for clients as long as the job says, no longer
            world.loop.call_later(mode.job.network.rejoin_seconds, world.stop)

    mains = {"server": serve, **dict.fromkeys(mode.names, take_part)}
    if mode.aggregator:
        mains["aggregator"] = average
    for who, main in mains.items():
        parties.append(Party(world, network, who, partial(main, mode=mode, outcome=outcome), over))
    problem, ended = "", False
    try:
        for party in parties:
            world.loop.call_later(world.random.uniform(0.0, 0.3) if disturbed else 0.0, party.start)
        if whole is not None:
            longest = 4.0 if mode.strict else 10.0
            steps = int(1.2 * whole.world.steps)
            faults.plan(world, network, parties, steps, longest)
            if not mode.strict:
                spare = len(mode.names) - (mode.job.network.min_clients or len(mode.names))
                faults.lose(world, seed, parties[1 : 1 + len(mode.names)], spare, steps)
            if mode.slow:
                _slow(world, parties[1:])
        world.loop.call_later(AFTER_FAULTS, world.stop)
        with mock.patch.object(time, "perf_counter", world.loop.time):  # seconds are in records
            world.run()
        if not parties[0].done or (mode.strict and left()):
            problem = f"{', '.join(left())} not over at {world.loop.now:.0f} seconds"
    except StuckError as error:
        problem = str(error)
    except Exception as error:
        ended = documented_end(mode, error)
        problem = "" if ended else f"{type(error).__name__}: {error}"
    try:
        if ended:
            problem = sums_apart(outcome.log)
        problem = problem or ("" if ended else judge(mode, parties, outcome, whole and whole.outcome))
    finally:
        for party in parties:
            party.world.due.clear()
            if party.alive and not party.done:
                party.network.listening.clear()
                party.computing.dead = True
                party.computing.resume()
        world.close()
    return Result(mode, seed, problem, outcome, world, sum(party.kills for party in parties))


def _slow(world: World, parties: list[Party]) -> None:
    """Have each client take its time, some of them more than the others wait."""
    for party in parties:
        most = world.random.choice((0.0, 0.1, 1.0, 2.0))
        party.pause = lambda most=most: world.random.uniform(0.0, most)
