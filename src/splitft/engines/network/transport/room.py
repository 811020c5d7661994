"""Room for connections: open files of this process."""

from __future__ import annotations

import os
from contextlib import suppress

from splitft.engines.network.transport.strangers import FILES

SPARE = 128  # files for everything else that a run opens


def make_room(clients: int, strangers: int, each: int) -> str:
    """Raise the limit of open files to what the clients need; return a line about it, empty where they fit.

    strangers: connections besides. each: files of a connection.
    """
    try:
        import resource
    except ImportError:  # no such limit
        return ""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = SPARE
    with suppress(OSError):
        here += len(os.listdir(FILES))  # noqa: PTH208
    need = here + each * (clients + strangers)
    if need <= soft or soft == resource.RLIM_INFINITY:
        return ""
    raised = need if hard == resource.RLIM_INFINITY else min(need, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    fit = max(0, (soft - here) // each - strangers)
    if fit >= clients:
        return ""
    return (
        f"this process may open {soft} files, and {clients} clients need {need}: {fit} fit; raise it with "
        f"`ulimit -n {need}`, or LimitNOFILE= of systemd"
    )
