"""The feed of a live page: looks at the folders once for all watchers, and sends each what has changed."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitft.common.text import error_line
from splitft.tools.watch.delta import difference
from splitft.tools.watch.folders import find_runs, names_of
from splitft.tools.watch.state import RunState, encoded

SECONDS_BETWEEN = 1.0  # from one look to the next
LARGEST_SHARE = 0.01  # of a core, for looks: where they take long, they are made less often
SECONDS_BETWEEN_SEARCHES = 5.0  # for runs that are new below the folders
HEARTBEAT_SECONDS = 15.0  # a watcher that is gone is noticed by then
MOST_WATCHERS = 64
MOST_WAITING = 16  # events that a slow watcher has not taken: then it gets the whole state in their place
SECONDS_BETWEEN_STATES = 5.0  # of a run in whose folder nothing changes


class Runs:
    """The states of all runs, by their names."""

    def __init__(self, folders: Sequence[Path], *, fixed: bool = False) -> None:
        """Args: fixed: the folders are the runs, whatever they hold yet."""
        self._folders, self._fixed = list(folders), fixed
        self._runs: dict[Path, RunState] = {}
        self._shown: dict[str, float] = {}  # when the state of a run was made last
        self._searched = -SECONDS_BETWEEN_SEARCHES
        self.seconds = 0.0  # that the last look took of a core
        self.states: dict[str, dict[str, Any]] = {}

    def look(self) -> dict[str, Any]:
        """Read what is new; return what has changed: {run: difference}, of a new run the whole state."""
        now, began = time.monotonic(), time.thread_time()
        if now - self._searched >= SECONDS_BETWEEN_SEARCHES:
            self._searched = now
            paths = self._folders if self._fixed else find_runs(self._folders)
            for path, name in names_of(paths).items():
                self._runs.setdefault(path, RunState(path, name))
        changes = {run.name: changed for run in self._runs.values() if (changed := self._look_at(run, now))}
        self.seconds = time.thread_time() - began
        return changes

    def _look_at(self, run: RunState, now: float) -> dict[str, Any]:
        before = self.states.get(run.name)
        try:
            # Without news a state changes by the time alone: nothing is heard of the run any more.
            stands = now - self._shown.get(run.name, -SECONDS_BETWEEN_STATES) < SECONDS_BETWEEN_STATES
            if not run.look() and stands:
                return {}
            after = run.state()
        except Exception as error:  # a file that holds what nobody foresaw: the other runs are shown
            after = {**(before or {"name": run.name}), "problem": error_line(error)}
        self._shown[run.name], self.states[run.name] = now, after
        return {"whole": after} if before is None else difference(before, after)


@dataclass(eq=False)
class Watcher:
    """One page that is open somewhere. anew: it has fallen behind, and gets the whole state next."""

    events: deque[bytes] = field(default_factory=deque)
    anew: bool = True
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, event: bytes) -> None:
        """Keep an event; where too many wait, the whole state is to take their place."""
        if len(self.events) >= MOST_WAITING:
            self.events.clear()
            self.anew = True
        if not self.anew:
            self.events.append(event)
        self.news.set()


class Feed:
    """Server-sent events for watchers. Nothing is looked at while nobody watches."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._watchers: set[Watcher] = set()
        self._looking: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()  # of the states and of what watchers have been told of them
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether there are as many watchers as there may be."""
        return len(self._watchers) >= MOST_WATCHERS

    async def watch(self) -> AsyncIterator[bytes]:
        """Yield the whole state and then every change, each as one event, until the feed is closed."""
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            async with self._lock:
                await self._look()
            if self._looking is None:
                self._looking = asyncio.ensure_future(self._look_again())
            while True:
                async with self._lock:
                    event = self._next(watcher)
                if event is not None:
                    yield event
                elif self._closed:
                    break
                else:
                    yield await self._news(watcher)
            yield _event("over", {})
        finally:
            self._watchers.discard(watcher)

    async def close(self) -> None:
        """Look a last time, and end all watchers' events."""
        async with self._lock:
            await self._look()
            self._closed = True
            for watcher in self._watchers:
                watcher.news.set()

    def _next(self, watcher: Watcher) -> bytes | None:
        """Return the next event of a watcher; None where there is no news."""
        watcher.news.clear()
        if watcher.anew:
            watcher.anew = False
            watcher.events.clear()
            return _event("whole", self._runs.states)
        return watcher.events.popleft() if watcher.events else None

    async def _news(self, watcher: Watcher) -> bytes:
        """Wait for news, and return a sign of life."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(watcher.news.wait(), HEARTBEAT_SECONDS)
            return b""
        return b": still here\n\n"

    async def _look_again(self) -> None:
        try:
            while self._watchers and not self._closed:
                await asyncio.sleep(max(SECONDS_BETWEEN, self._runs.seconds / LARGEST_SHARE))
                async with self._lock:
                    await self._look()
        finally:
            self._looking = None

    async def _look(self) -> None:
        """Look once, in a thread, and tell all watchers."""
        if not self._closed and (changes := await asyncio.to_thread(self._runs.look)):
            event = _event("change", changes)
            for watcher in self._watchers:
                watcher.tell(event)


def _event(kind: str, runs: Any) -> bytes:
    data = encoded({"now": round(time.time(), 3), "runs": runs})
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
