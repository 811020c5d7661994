"""Waits that heed signals: also one that reaches another thread of the process, which wakes nobody."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, queue, signal, threading, time
from concurrent.futures import Future
from splitft.common.waits import next_of, result_of

def stop(*_):
    raise SystemExit(7)

def hear():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

signal.signal(signal.SIGTERM, stop)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
threading.Thread(target=hear, daemon=True).start()
"""


@pytest.mark.parametrize("wait", ["next_of(queue.SimpleQueue())", "result_of(Future())"])
def test_a_signal_ends_an_endless_wait(wait: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT + wait], timeout=60, check=False)
    assert done.returncode == 7


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["queue.SimpleQueue().get()", "Future().result()"])
def test_without_them_it_does_not(wait: str) -> None:
    """Else the test above would show nothing."""
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", SCRIPT + wait], timeout=8, check=False)
