"""Waits without an end that heed signals.

A signal that comes between Python's last look for one and the wait itself is seen when the wait ends: a
process that waits for ever would pass SIGTERM over. So these waits end from time to time, and begin again.
"""

from __future__ import annotations

import queue
from concurrent.futures import Future, wait
from typing import TypeVar

HEED_SECONDS = 1.0  # until a signal is seen, at most

Item = TypeVar("Item")


def next_of(items: queue.SimpleQueue[Item]) -> Item:
    """Wait for the next item of a queue, and return it."""
    while True:
        try:
            return items.get(timeout=HEED_SECONDS)
        except queue.Empty:
            continue


def result_of(future: Future[Item]) -> Item:
    """Wait for a result, and return it. Raises what the future does."""
    while not wait([future], HEED_SECONDS).done:
        continue
    return future.result()
