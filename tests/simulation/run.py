"""Simulates seeds: `PYTHONPATH=src:tests python -m simulation.run --seeds 0:2000 [--real] [--mode NAME]`."""

from __future__ import annotations

import argparse
import sys
import time

from simulation.modes import ALL, COMING, MODES, REAL
from simulation.schedule import simulate, undisturbed


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--seeds", default="0:1000", help="FIRST:END; a seed's mode is its number modulo theirs"
    )
    options.add_argument(
        "--real", action="store_true", help="modes with a real model, in the place of numbers"
    )
    options.add_argument("--coming", action="store_true", help="modes whose clients come and go")
    options.add_argument("--mode", choices=list(ALL), help="one mode alone, of either kind")
    options.add_argument("--trace", action="store_true", help="print what happened in each failing schedule")
    options.add_argument("--most", type=int, default=10, help="failing schedules after which it stops")
    given = options.parse_args()
    first, last = map(int, given.seeds.split(":"))
    names = [given.mode] if given.mode else list(REAL if given.real else COMING if given.coming else MODES)
    for name in names:
        undisturbed(name)
    failed, kills, steps, began = 0, 0, 0, time.perf_counter()
    for seed in range(first, last):
        result = simulate(names[seed % len(names)], seed)
        kills, steps = kills + result.kills, steps + result.world.steps
        if result.problem:
            failed += 1
            print(
                f"--mode {result.mode.name!r} --seeds {seed}:{seed + 1}: {result.problem[:600]}", flush=True
            )
            if given.trace:
                print(result.trace())
            if failed >= given.most:
                break
    seconds = time.perf_counter() - began
    print(f"{seed + 1 - first} schedules, {kills} kills, {steps} steps, {failed} failed, {seconds:.1f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
