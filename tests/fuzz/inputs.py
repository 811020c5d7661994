"""Runs a target on inputs, each within bounds of time and memory; an error that is not documented fails."""

from __future__ import annotations

import random
import resource
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

LONGEST_SECONDS = 1.0  # of computing, for one input
MOST_MB = 64  # by which one input may raise the peak of this process's memory
HANGS_SECONDS = 20  # of computing, after which an input is given up


class Target(Protocol):
    """What takes input. `run` raises on whatever is not documented, and returns the outcome in a word."""

    def generate(self, rng: random.Random) -> bytes:
        """Return an input, from the random numbers alone."""

    def run(self, data: bytes) -> str:
        """Take an input, whatever it holds."""


class FoundError(AssertionError):
    """An input that did what none may."""

    def __init__(self, what: str, data: bytes) -> None:
        super().__init__(f"{what}\ninput ({len(data)} bytes): {data[:400].hex()}")
        self.what, self.data = what, data


class InputOverError(BaseException):
    """A party waits for what an input does not have."""


class UnclearError(Exception):
    """A party stopped, but by no error that says what is wrong."""


@dataclass
class Tally:
    """Inputs of a target. slowest: seconds of one."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    @property
    def inputs(self) -> int:
        return sum(self.outcomes.values())


def try_one(target: Target, data: bytes, tally: Tally) -> None:
    """Run a target on one input. Raises FoundError."""
    began, peak = time.thread_time(), _peak_mb()
    try:
        with _given_up():
            outcome = target.run(data)
    except Exception as error:
        raise FoundError("".join(traceback.format_exception(error)).rstrip(), data) from error
    seconds, more = time.thread_time() - began, _peak_mb() - peak
    tally.outcomes[outcome] += 1
    tally.slowest = max(tally.slowest, seconds)
    if seconds > LONGEST_SECONDS:
        raise FoundError(f"{seconds:.2f} seconds of computing ({outcome})", data)
    if more > MOST_MB:
        raise FoundError(f"{more:.0f} MB more memory ({outcome})", data)


def fuzz(target: Target, inputs: int, seed: int = 0) -> Tally:
    """Run a target on generated inputs. Raises FoundError."""
    rng, tally = random.Random(seed), Tally()
    for _ in range(inputs):
        try_one(target, target.generate(rng), tally)
    return tally


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def _given_up() -> Iterator[None]:
    """Raise inside, after HANGS_SECONDS of computing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hangs(number: int, frame: object) -> None:
        raise TimeoutError(f"no end after {HANGS_SECONDS} seconds of computing")

    before = signal.signal(signal.SIGVTALRM, hangs)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANGS_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
