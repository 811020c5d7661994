"""Step times, measured on both sides of the network, for policies that use them.

A client reports its computing seconds; the server knows its own, and its waiting; the rest is the link's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from splitft.devices.steps import StateSeconds
from splitft.engines.network.control import Worked
from splitft.job.settings import BatchSettings
from splitft.lora.ranks import HeldBlocks
from splitft.server.parts import best_parts


@dataclass
class Stopwatch:
    """Adds up the seconds inside its `with` blocks."""

    seconds: float = 0.0
    _began: float = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began


@dataclass
class StepClock:
    """Of one client's local steps: seconds of the server's computing, and of its waiting."""

    server_seconds: float = 0.0
    waited_seconds: float = 0.0
    _began: float | None = None
    _asked_at: float | None = None

    @property
    def seconds(self) -> float:
        """Return the time from the first message to it to the last one from it."""
        return 0.0 if self._began is None or self._asked_at is None else self._asked_at - self._began

    def start(self) -> None:
        """Begin with the first of some local steps."""
        self.server_seconds, self.waited_seconds = 0.0, 0.0
        self._began = self._asked_at = None

    def asked(self) -> None:
        """Note that something was sent to the client."""
        self._asked_at = time.perf_counter()
        self._began = self._asked_at if self._began is None else self._began

    def heard(self, at: float) -> None:
        """Note that something came from it; several messages may answer one."""
        if self._asked_at is not None:
            self.waited_seconds += max(0.0, at - self._asked_at)
            self._asked_at = at

    def served(self, seconds: float) -> None:
        """Add seconds of the server's computing."""
        self.server_seconds += seconds


@dataclass
class StepTimes:
    """Measured step times of clients: for cut policies, and for `micro_batches: auto`."""

    job: BatchSettings
    on_seconds: Callable[[str, StateSeconds], object] | None  # receives the times of a client's step
    parts: dict[str, int] = field(default_factory=dict)  # of each client's batches, by its first times

    def add(self, name: str, worked: Worked, clock: StepClock, held: HeldBlocks, clients: int) -> None:
        """Take in the times of a client's local steps. clients: number that the server computes for.

        What a client states counts up to the time in which it did it.
        """
        steps, stated = self.job.local_steps, worked.front_seconds + worked.tail_seconds
        if stated > clock.seconds:
            share = clock.seconds / stated
            worked = Worked(worked.round, worked.front_seconds * share, worked.tail_seconds * share)
        client = worked.front_seconds + worked.tail_seconds
        link = max(0.0, clock.waited_seconds - client)
        if self.on_seconds is not None:
            seconds = StateSeconds(
                block_seconds=worked.front_seconds / steps / held.cut,
                fixed_seconds=worked.tail_seconds / steps,
                transfer_seconds=link / steps,
                adapter_seconds=0.0,
                server_block_seconds=clock.server_seconds / steps / (held.tail_start - held.cut),
                server_fixed_seconds=0.0,
            )
            self.on_seconds(name, seconds)
        if name not in self.parts:
            most, server = self.job.per_device_train_batch_size, clock.server_seconds
            self.parts[name] = best_parts(most, client / steps, link / steps, server / steps, clients)
