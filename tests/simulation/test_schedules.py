"""Schedules of faults, one for each seed: the protocol comes to the same bits in all of them."""

from __future__ import annotations

import pytest

from cases import rest_slow
from simulation.bugs import BUGS
from simulation.modes import MODES
from simulation.schedule import Result, simulate

QUICK, ALL = 2_000, 100_000  # 25 ms each on an idle core
NAMES = list(MODES)
# Schedules that once found a defect.
FOUND = {
    "aggregator": 5736,  # a round ended while its client restored the state before it
    "shared, client labels": 7942,  # the same with a shared trunk
    "moving cuts, shared": 7065,  # the end was told over a connection that broke before it arrived
}


def run(seed: int) -> Result:
    return simulate(NAMES[seed % len(NAMES)], seed)


def check(first: int, last: int) -> int:
    """Fail with the seed of a schedule that is not as it should be; return the number of kills."""
    kills = 0
    for seed in range(first, last):
        result = run(seed)
        kills += result.kills
        told = f"python -m simulation.run --trace --seeds {seed}:{seed + 1}: {result.problem}"
        assert not result.problem, f"{told}\n{result.trace()[-4000:]}"
    return kills


@pytest.mark.parametrize("seeds", rest_slow([range(0, 100, 11), range(len(NAMES))], 1))
def test_a_seed_is_one_schedule(seeds: range) -> None:
    """The same seed: the same things happen, in the same order, at the same times."""
    for seed in seeds:
        assert run(seed).world.digest() == run(seed).world.digest(), seed
    assert len({run(seed).world.digest() for seed in range(0, 3 * len(NAMES), len(NAMES))}) == 3


def test_schedules() -> None:
    assert check(0, QUICK) > QUICK / 4


@pytest.mark.parametrize("mode", FOUND)
def test_schedules_that_found_a_defect(mode: str) -> None:
    assert NAMES[FOUND[mode] % len(NAMES)] == mode
    check(FOUND[mode], FOUND[mode] + 1)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_schedules(part: int) -> None:
    size = (ALL - QUICK) // 10
    check(QUICK + part * size, QUICK + (part + 1) * size)


@pytest.mark.parametrize("bug", rest_slow(list(BUGS), 1))
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(0)
    for name in NAMES:
        simulate(name, 0)  # the undisturbed runs, before
    BUGS[bug](monkeypatch)
    found = next((seed for seed in range(10_000) if run(seed).problem), None)
    assert found is not None
    print(f"{bug}: seed {found}: {run(found).problem[:300]}")
