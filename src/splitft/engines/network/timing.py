"""What a step takes: measured on both sides of the network, for policies that go by it. (ours)

A client says how long it computed; the server knows how long itself did, and how long it waited. What is
left of that is the link's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from splitft.devices.steps import StateSeconds
from splitft.engines.network.control import Worked
from splitft.job import Job

MOST_SECONDS = 1e6  # of a round, that anybody may say to have computed


class Stopwatch:
    """Adds up the seconds inside its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began


@dataclass
class StepClock:
    """Of one client's turn: seconds that the server computed for it, and waited for its next message."""

    server_seconds: float = 0.0
    waited_seconds: float = 0.0
    _asked_at: float | None = None

    def asked(self) -> None:
        """The client has been sent something."""
        self._asked_at = time.perf_counter()

    def heard(self, at: float) -> None:
        """Something came from it; several messages may answer one."""
        if self._asked_at is not None:
            self.waited_seconds += max(0.0, at - self._asked_at)
            self._asked_at = at


def check_worked(worked: Worked) -> None:
    """Raise ValueError on what cannot be."""
    for seconds in (worked.front_seconds, worked.tail_seconds):
        if not 0 <= seconds <= MOST_SECONDS:
            raise ValueError(f"Worked: {seconds} seconds")


def step_seconds(job: Job, worked: Worked, clock: StepClock, cut: int, trunk_blocks: int) -> StateSeconds:
    """Return what a step took a client with this cut."""
    steps = job.local_steps
    link = max(0.0, clock.waited_seconds - worked.front_seconds - worked.tail_seconds)
    return StateSeconds(
        block_seconds=worked.front_seconds / steps / cut,
        fixed_seconds=worked.tail_seconds / steps,
        transfer_seconds=link / steps,
        adapter_seconds=0.0,
        server_block_seconds=clock.server_seconds / steps / trunk_blocks,
        server_fixed_seconds=0.0,
    )
