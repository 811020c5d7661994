"""`splitft` in processes of its own, forked from one that has imported everything and done nothing.

A start takes no seconds, and what is killed is a whole process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from splitft.common.failpoints import VARIABLE

# The fork server does not look elsewhere for what it is to import, and says nothing where it is not found.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["preload"])


def start_command(arguments: Sequence[str], log: Path, points: str = "") -> ForkServerProcess:
    """Start `splitft ARGUMENTS`; what it says is added to the log. points: where it is to fail."""
    process = FORKS.Process(target=_be_command, args=(arguments, points, str(log)))
    process.start()
    return process


def _be_command(arguments: Sequence[str], points: str, log: str) -> None:
    import torch

    from splitft.launch.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in commands.start_process
    torch.set_num_threads(1)
    os.environ |= {VARIABLE: points, "NO_COLOR": "1"}
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["splitft", *arguments]
    sys.exit(main())
