"""Schedules of faults, one for each seed: the protocol comes to the same bits in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from cases import rest_slow
from simulation.bugs import BUGS, REAL_BUGS
from simulation.modes import COMING, MODES, REAL
from simulation.schedule import Result, simulate, undisturbed

QUICK, ALL = 200, 100_000  # 50 ms each on an idle core
COMING_QUICK, COMING_ALL = 40, 20_000
REAL_ALL, REAL_PARTS = 2_000, 4  # 0.2 s each
NAMES, REAL_NAMES, COMING_NAMES = list(MODES), list(REAL), list(COMING)
# Of those with a model: labels at home with int8, cuts that move with lower ranks and a shared trunk, a
# frozen front, delta with cuts that move, micro-batches without padding, an aggregator.
# Whole models: with differential privacy, and masked: alone, and where clients are lost.
REAL_QUICK = (1, 5, 7, 9, 10, 15, 21, 22, 25)
# Planted bugs, each to be found within so many seeds: with numbers, and with a model.
PLANTED = [("numbers", bug) for bug in BUGS] + [("real", bug) for bug in REAL_BUGS]
QUICK_PLANTED = [("numbers", "an ack lost"), ("real", "an optimizer moment not restored")]
WITHIN = {"numbers": 10_000, "real": 1_000}
# Schedules that once found a defect.
FOUND = [
    ("aggregator", 5736),  # a round ended while its client restored the state before it
    ("shared, client labels", 7942),  # the same with a shared trunk
    ("moving cuts, shared", 7065),  # the end was told over a connection that broke before it arrived
    ("rejoin", 14522),  # a line that a loss of power tore, and the next one after it
    ("in turns", 15739),  # the end was told, and then a loss of power undid it at the server
    ("stragglers, shared", 18611),  # a round went on without its last client
    # Rounds that waited without end for clients lost for good, though others were there.
    ("rejoin, shared", 31),  # others had come too late for the round
    ("rejoin, sampled", 3),  # others were not drawn for it
    ("rejoin, in turns", 143),  # others had had their turn
    ("whole models", 31),  # losses and adapters came together, and the losses were lost
    ("rejoin", 155),  # after a checkpoint with which no client had saved its state
    # With save_every 3 a client that came back lacked what it had been handed out for an evaluation.
    ("rarely saved", 5),
    ("rarely saved, sampled", 10),
    ("rarely saved, moving cuts", 4),
    # One client had recorded a sum when the server died, and all were back, but no sum was made of all.
    ("real, masked", 190),
    ("real, masked, aggregator", 135),
    ("real, masked, stragglers", 122),  # one that was left out of a sum came back, and was expelled for it
]


def run(seed: int, names: Sequence[str] = NAMES) -> Result:
    return simulate(names[seed % len(names)], seed)


def check(seeds: Iterable[int], names: Sequence[str] = NAMES) -> int:
    """Fail with the seed of a schedule that is not as it should be; return the number of kills."""
    kills, real = 0, " --real" if names is REAL_NAMES else " --coming" if names is COMING_NAMES else ""
    for seed in seeds:
        result = run(seed, names)
        kills += result.kills
        told = f"python -m simulation.run{real} --trace --seeds {seed}:{seed + 1}: {result.problem}"
        assert not result.problem, f"{told}\n{result.trace()[-4000:]}"
    return kills


@pytest.mark.parametrize("seeds", rest_slow([range(0, 100, 11), range(len(NAMES))], 1))
def test_a_seed_is_one_schedule(seeds: range) -> None:
    """The same seed: the same things happen, in the same order, at the same times."""
    for seed in seeds:
        assert run(seed).world.digest() == run(seed).world.digest(), seed
    assert len({run(seed).world.digest() for seed in range(0, 3 * len(NAMES), len(NAMES))}) == 3


def test_schedules() -> None:
    assert check(range(QUICK)) > QUICK / 4


def test_schedules_with_clients_that_come_and_go() -> None:
    """The adapter is that of the record, replayed in one process; nobody loses its state."""
    assert check(range(COMING_QUICK), COMING_NAMES) > COMING_QUICK / 8


def test_schedules_with_a_model() -> None:
    assert check(REAL_QUICK, REAL_NAMES) > 0


@pytest.mark.parametrize(("mode", "seed"), FOUND)
def test_schedules_that_found_a_defect(mode: str, seed: int) -> None:
    result = simulate(mode, seed)
    assert not result.problem, result.problem


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_schedules(part: int) -> None:
    size = (ALL - QUICK) // 10
    check(range(QUICK + part * size, QUICK + (part + 1) * size))


@pytest.mark.slow
def test_many_schedules_with_clients_that_come_and_go() -> None:
    check(range(COMING_QUICK, COMING_ALL), COMING_NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(REAL_PARTS))
def test_many_schedules_with_a_model(part: int) -> None:
    size = REAL_ALL // REAL_PARTS
    assert check(range(part * size, (part + 1) * size), REAL_NAMES) > size / 4


@pytest.mark.slow
def test_a_seed_is_one_schedule_with_a_model() -> None:
    for seed in range(len(REAL_NAMES)):
        first, second = (run(seed, REAL_NAMES) for _ in range(2))
        assert first.world.digest() == second.world.digest(), seed
        assert first.outcome.adapter == second.outcome.adapter, seed


@pytest.mark.parametrize(("kit", "bug"), rest_slow(PLANTED, QUICK_PLANTED))
def test_a_planted_bug_is_found(kit: str, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names, plant = (REAL_NAMES, REAL_BUGS[bug]) if kit == "real" else (NAMES, BUGS[bug])
    for seed in range(WITHIN[kit]):
        undisturbed(names[seed % len(names)])  # without the bug
        with monkeypatch.context() as patch:
            plant(patch)
            problem = run(seed, names).problem
        if problem:
            print(f"{bug}: seed {seed}: {problem[:300]}")
            return
    pytest.fail(f"not found within {WITHIN[kit]} seeds")
