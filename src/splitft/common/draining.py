"""Draining: a party of a network stops within seconds, and goes on later from its state on the disk.

SIGTERM, and at a server Ctrl-C, raise `Draining` in the main thread wherever it is. A thread that SIGTERM
wakes ends the process where that takes too long: as after a kill, the state on the disk is then whole, too.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

DRAINED = 75  # exit code: EX_TEMPFAIL of sysexits.h; start it again
MOST_SECONDS = 8.0  # of draining
SECOND_SECONDS = 2.0  # for a second Ctrl-C
_BEGUN = threading.Event()


class Draining(KeyboardInterrupt):
    """This process is to stop, and to be started again. interrupt: by Ctrl-C."""

    def __init__(self, interrupt: bool) -> None:
        super().__init__()
        self.interrupt = interrupt


@contextmanager
def draining() -> Iterator[None]:
    """Have SIGTERM raise `Draining` in here.

    The first process of a container gets no signal at all without a handler. Outside of the main thread
    nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _BEGUN.clear()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=_watch, args=(reading,), name="splitft-drain", daemon=True).start()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, _drain)
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
        _BEGUN.clear()


def draining_has_begun() -> bool:
    """Whether this process has been told to stop; at once, also where the main thread computes."""
    return _BEGUN.is_set()


def drain_at_interrupts() -> None:
    """Have the first Ctrl-C raise `Draining`, too, to the end of `draining`; the second is one as ever."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _drain)


def _drain(number: int, _: FrameType | None) -> None:
    """Raise once: a second SIGTERM changes nothing, a second Ctrl-C is one."""
    _BEGUN.set()
    signal.signal(signal.SIGTERM, _nothing)
    if signal.getsignal(signal.SIGINT) is _drain:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    raise Draining(number == signal.SIGINT)


def _nothing(number: int, _: FrameType | None) -> None: ...


def _watch(reading: int) -> None:
    """End the process some seconds after SIGTERM, also where the main thread computes."""
    while came := os.read(reading, 1):
        if came[0] == signal.SIGTERM:
            _BEGUN.set()
            threading.Thread(target=_end, name="splitft-end", daemon=True).start()
    os.close(reading)


def _end() -> None:
    time.sleep(MOST_SECONDS)
    os._exit(DRAINED)
