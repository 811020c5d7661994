"""Memory of this process, and measurements that need a process of their own."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch


def resident_bytes() -> int:
    """Resident set of this process, after freed memory went back to the system where libc can do that."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(psutil.Process().memory_info().rss)


def live_tensor_bytes() -> int:
    """Bytes of all storages that live tensors hold, each storage once."""
    gc.collect()
    storages = {}
    for item in gc.get_objects():
        try:
            if type(item) in (torch.Tensor, torch.nn.Parameter) and item.device.type == "cpu":
                storage = item.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        except (RuntimeError, ReferenceError):
            continue
    return sum(storages.values())


def peak_growth(work: Callable[[], object]) -> int:
    """Return how many bytes the resident set grows, at its highest, while something is done. Linux only."""
    before = resident_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # the highest is from now on
    work()
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024 - before


def in_own_process(*arguments: object) -> dict[str, Any]:
    """Run this script again with other arguments; return the JSON of the last line that it prints."""
    command = [sys.executable, sys.argv[0], *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
