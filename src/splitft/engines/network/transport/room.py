"""Room for connections: open files of this process."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from splitft.common.notices import Notice
from splitft.engines.network.transport.strangers import FILES, MOST_STRANGERS

SPARE = 128  # files for everything else that a run opens
LEAST_SPARE = 48  # of these: below it a run could not write its checkpoints
STRANGERS = MOST_STRANGERS // 4  # connections besides those of clients
EVERY = 60.0  # seconds between two lines that say that files are lacking


@dataclass(frozen=True)
class Room:
    """The connections that this process has files for.

    Attributes:
        most: At a time; None: any number.
        notice: A line for the operator where not all clients fit; else empty.
        advice: What raises the limit, to what all clients need.
    """

    most: int | None
    notice: str = ""
    advice: str = ""


def make_room(clients: int, each: int, strangers: int = STRANGERS) -> Room:
    """Raise the limit of open files to what the clients need, as far as the system allows it.

    each: files of a connection. strangers: connections besides.
    """
    try:
        import resource
    except ImportError:  # no such limit
        return Room(None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = 0
    with suppress(OSError):
        here = len(os.listdir(FILES))  # noqa: PTH208
    need = here + SPARE + each * (clients + strangers)
    if soft != resource.RLIM_INFINITY and need > soft:
        raised = need if hard == resource.RLIM_INFINITY else min(need, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY:
        return Room(None)
    most = max(0, soft - here - LEAST_SPARE) // each
    fit = max(0, (soft - here - SPARE) // each - strangers)
    advice = f"raise it with `ulimit -n {need}`, or LimitNOFILE= of systemd"
    if fit >= clients:
        return Room(most, advice=advice)
    told = f"this process may open {soft} files, and {clients} clients need {need}: {fit} fit; {advice}"
    return Room(most, told, advice)


def quiet_lack_of_files(loop: asyncio.AbstractEventLoop, say: Callable[[str], None]) -> None:
    """Have an event loop say now and then that files are lacking, and not a traceback each second.

    say: prints a line.
    """
    said = [-EVERY]

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
            loop.default_exception_handler(context)
        elif time.monotonic() - said[0] >= EVERY:
            said[0] = time.monotonic()
            text = "no file is left for another connection: raise the limit (`ulimit -n`), and start again"
            say(Notice(text, "files.lacking", "warning"))

    loop.set_exception_handler(handle)
