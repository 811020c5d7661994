"""Whether a run is under way, and in which phase, from what its process leaves in the folder."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Any

from splitft.tools.watch.parts import mapping, number, rounded, words

SILENT_SECONDS = 30.0  # the live file of a run is written every five
GONE_SECONDS = 8.0  # and where no process here has the number of the run's, unless it is in another container
_LOCK = re.compile(r"process (\d+) on (\S+)")
ENDED = ("done", "stopped", "diverged")


def status_of(
    live: Mapping[str, Any],
    live_time: float,
    lock: tuple[str, float] | None,
    summary: Mapping[str, Any],
    members: Mapping[str, Any],
    now: float,
) -> dict[str, Any]:
    """Return a run's state, with the figures of its live file while it is under way.

    States: running, preparing, waiting (for clients, before the first round), silent, lost (its process is
    gone), finished, diverged, stopped, unknown. lock: text and time of the lock's file; None without one.
    live_time, now: in seconds since 1970.
    """
    found = _LOCK.match(lock[0]) if lock else None
    process = int(found[1]) if found and found[2] == socket.gethostname() else None
    gone = process is not None and not _exists(process)
    newer = bool(live) and (lock is None or live_time >= lock[1])  # else it is of the process before
    seconds = GONE_SECONDS if gone else SILENT_SECONDS
    if newer and live.get("phase") not in ENDED and now - live_time < seconds:
        return {"state": "running", **_figures(live)}
    if lock is not None:
        if gone:
            told = f"its process, {process}, has ended without a word: it may have been killed"
            return {"state": "lost", "reason": told, **(_figures(live) if newer else {})}
        if newer and live.get("phase") not in ENDED:
            return {"state": "silent", **_figures(live)}
        if not newer:
            return {"state": "waiting" if members else "preparing"}
    if summary.get("diverged") or live.get("phase") == "diverged":
        return {"state": "diverged", "reason": words(summary.get("diverged")), **_figures(live)}
    if summary.get("interrupted") is False:
        return {"state": "finished", "round": number(summary.get("rounds"))} | _figures(live)
    if live.get("phase") in ENDED or summary:
        return {"state": "stopped", **_figures(live)}
    return {"state": "silent", **_figures(live)} if live else {"state": "unknown"}


def _figures(live: Mapping[str, Any]) -> dict[str, Any]:
    clients = [mapping(own) for own in mapping(live.get("clients")).values()]
    steps = [own.get("step") for own in clients if own.get("round") == live.get("round")]
    found = {
        "phase": words(live.get("phase"), 40),
        "round": number(live.get("round")),
        "step": max((int(number(step) or 0) + 1 for step in steps), default=None),
        "tokens_per_second": rounded(live.get("tokens_per_second")),
        "seconds_left": rounded(live.get("seconds_left"), 4),
        "started": number(live.get("started")),
        "at": number(live.get("at")),
        "reason": words(live.get("reason")),
    }
    return {key: value for key, value in found.items() if value is not None and value != ""}


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another user's
    return True
