"""A world in one operating system thread: a clock, an event loop, and the parties' computing in turns.

Time is virtual: the loop jumps to the next timer. What is a computing thread in a real process has a stack of
its own here: the loop resumes it, and goes on when it waits. What happens next follows from the seed alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from greenlet import getcurrent, greenlet

from splitft.common.waits import HEED_SECONDS

MOST_STEPS = 40_000  # of a schedule; more are a livelock


class KilledError(BaseException):
    """Raised in the computing thread of a party that is killed."""


class StuckError(Exception):
    """Nothing is left that could happen, or too much happens."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop without sockets, whose clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def select(self, timeout: float | None) -> tuple[()]:
        """Wait, as the base class asks for it."""
        if timeout is None:
            raise StuckError("everyone waits, and no timer is set")
        if timeout > 0:
            self.now += timeout
        return ()

    def _process_events(self, event_list: Any) -> None: ...

    def _write_to_self(self) -> None: ...


class World:
    """Clock, loop, random numbers and trace of one schedule."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.loop = VirtualLoop()
        self.trace: list[tuple[float, str, str]] = []
        self.steps = 0  # things that happened: faults are planned by their number
        self.due: deque[tuple[int, Callable[[], None]]] = deque()  # faults by step, in order
        self.current: Computing | None = None
        self.failure: BaseException | None = None

    def note(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append((self.loop.now, who, what))

    def tick(self) -> None:
        """Count a thing that happens; have faults that are due happen, too."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise StuckError(f"more than {MOST_STEPS} steps")
        while self.due and self.due[0][0] <= self.steps:
            self.loop.call_soon(self.due.popleft()[1])

    def digest(self) -> str:
        """Return a hash of all that happened."""
        return hashlib.sha256("\n".join(map(repr, self.trace)).encode()).hexdigest()

    def run(self) -> None:
        """Run until `stop`. Raises StuckError, and what the loop was told to raise."""
        self.loop.set_exception_handler(self._on_error)
        self.loop.run_forever()
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """End the schedule."""
        self.loop.stop()

    def close(self) -> None:
        """Give up all tasks."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()

    def _on_error(self, loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self.failure is None and error is not None and not isinstance(error, KilledError):
            self.failure = error
            self.loop.stop()


class Computing:
    """The computing thread of a party, as a coroutine of its own stack: all others stand still meanwhile."""

    def __init__(self, world: World, name: str, main: Callable[[], None], over: Callable[[], None]) -> None:
        self.world, self.name, self.dead, self.finished = world, name, False, False
        self.error: BaseException | None = None
        self.pause: Callable[[], float] = lambda: 0.0  # virtual seconds before it takes a message
        self._main, self._over = main, over
        self._stack = greenlet(self._run)

    def resume(self) -> None:
        """Run until it waits or ends. To be called in the loop."""
        if self.finished:
            return
        before, self.world.current = self.world.current, self
        self._stack.parent = getcurrent()
        self._stack.switch()
        self.world.current = before
        if self.finished:
            self._over()

    def park(self) -> None:
        """Let the others run until it is resumed. To be called by its main function. Raises KilledError."""
        self.check()
        self._stack.parent.switch()
        self.check()

    def check(self) -> None:
        """Raise KilledError in a party that is dead."""
        if self.dead:
            raise KilledError(self.name)

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.world.loop.call_later(seconds, self.resume)
        self.park()

    def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Have the loop run a coroutine; return its result."""
        if self.dead:
            coroutine.close()
            self.check()
        task = self.world.loop.create_task(coroutine)
        task.add_done_callback(lambda _: self.resume() if not self.dead else None)
        self.park()
        return task.result()

    def _run(self) -> None:
        try:
            self.check()
            self._main()
        except BaseException as error:
            self.error = error
        self.finished = True


class Inbox:
    """A queue into a computing thread: what `queue.SimpleQueue` does, in virtual time."""

    def __init__(self, computing: Callable[[], Computing], world: World) -> None:
        self._computing, self._world = computing, world
        self._items: deque[Any] = deque()
        self._waits = 0  # counts; even: nobody waits

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._waits % 2:
            self._wake_in(0.0)

    def empty(self) -> bool:
        return not self._items

    def get_nowait(self) -> Any:
        self._computing().check()
        if not self._items:
            raise queue.Empty
        return self._items.popleft()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        computing = self._computing()
        computing.check()
        self._world.tick()
        if pause := computing.pause():
            computing.sleep(pause)
        if not self._items:
            self._waits += 1
            endless = timeout in (None, HEED_SECONDS)  # no signals come here
            handle = self._wake_in(timeout) if not endless else None
            computing.park()
            self._waits += self._waits % 2
            if handle is not None:
                handle.cancel()
        return self.get_nowait()

    def _wake_in(self, seconds: float) -> asyncio.TimerHandle:
        number = self._waits

        def wake() -> None:
            if self._waits == number:  # it still waits, and for this
                self._waits += 1
                self._computing().resume()

        return self._world.loop.call_later(seconds, wake)
