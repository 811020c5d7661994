"""A party: a process that can be killed at any moment, and started again with what its disk has kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from simulation.disk import MemoryDisk
from simulation.network import Network
from simulation.world import Computing, Inbox, KilledError, World


class Party:
    """A server, a client or an aggregator. main: what its process does, from its start to its end."""

    def __init__(
        self,
        world: World,
        network: Network,
        name: str,
        main: Callable[[Party], None],
        over: Callable[[], None],
    ) -> None:
        self.world, self.network, self.name = world, network, name
        self.disk = MemoryDisk(self._op)
        self.alive, self.done, self.doomed = False, False, ""
        self.started = 0.0  # its last life
        self.kills = 0
        self.lost = False  # for good
        self.pause: Callable[[], float] = lambda: 0.0
        self._main, self._over = main, over
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start its process, if it is not lost for good."""
        if self.lost:
            return
        self.world.note(self.name, "starts")
        self.alive, self.started = True, self.world.loop.now
        self.computing = Computing(self.world, self.name, lambda: self._main(self), self._ended)
        self.computing.pause = lambda: self.pause()
        self.world.loop.call_soon(self.computing.resume)

    def inbox(self) -> Inbox:
        """Return a queue into its computing thread."""
        computing = self.computing
        return Inbox(lambda: computing, self.world)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in its process."""
        task = self.world.loop.create_task(coroutine)
        self._tasks.append(task)
        return task

    def die(self, kind: str, restart_after: float | None) -> None:
        """Kill it. kind: kill, or power, which its disk loses, too, and of which nobody is told.

        restart_after: seconds; None: it never comes back.
        """
        self.lost = self.lost or restart_after is None
        if not self.alive or self.done:
            return
        self.world.note(self.name, f"dies ({kind})")
        self.kills += 1
        self.alive, self.doomed, self.computing.dead = False, "", True
        delay = None if kind == "power" else self.network.delay()
        for connection in self.network.of(self.name):
            connection.break_(delay, delay)
        self._gone()
        if self.world.current is not self.computing:
            self.computing.resume()
        if kind == "power":
            self.disk.lose_power(self.world.random)
        if restart_after is not None:
            self.world.loop.call_later(restart_after, self.start)

    def _gone(self) -> None:
        self.network.listening.pop(self.name, None)
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()

    def _op(self, what: str) -> None:
        """Before each change of its disk, also the moment at which it may die."""
        self.computing.check()
        self.world.note(self.name, what)
        self.world.tick()
        if self.doomed:
            self.die(self.doomed, self.world.random.uniform(0.1, 4.0))
            raise KilledError(self.name)

    def _ended(self) -> None:
        error = self.computing.error
        if isinstance(error, KilledError):
            return
        self.alive = False
        self.world.note(self.name, f"ends: {error!r}" if error else "ends")
        if error is not None:
            self.world.failure = self.world.failure or error
            self.world.stop()
            return
        self.done = True
        self._gone()
        for connection in self.network.of(self.name):
            connection.hang_up("client" if connection.client is self else "server")
        self._over()
