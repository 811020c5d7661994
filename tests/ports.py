"""A free port of this machine.

Not one that the system hands out by itself: while nothing listens there, a client that dials again and again
can be given that very port for its own end, and is then connected to itself.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path

FIRST, COUNT = 20_000, 12_000  # systems hand out ports from 32,768 on


def free_port() -> int:
    """Return the next port that nothing listens at; each is handed out once, in whichever process."""
    with Path(tempfile.gettempdir(), f"splitft-test-ports-{os.getuid()}").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        last = int(file.read() or 0)
        for number in range(last + 1, last + COUNT):
            port = FIRST + number % COUNT
            if not _taken(port):
                file.truncate(0)
                file.write(str(number))
                return port
    raise RuntimeError("no port is free")


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
