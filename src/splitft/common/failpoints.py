"""Named places at which a test can make a process fail. Nothing happens unless the environment asks for it.

    SPLITFT_FAILPOINTS="checkpoint.renamed:2:kill,server.step:5:delay:0.5"

is name:count:action[:seconds]: act when the place is reached for the count-th time. (ours, after etcd's)
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from functools import lru_cache
from typing import Literal, cast, get_args

VARIABLE = "SPLITFT_FAILPOINTS"
Action = Literal["kill", "interrupt", "drop", "duplicate", "delay", "corrupt"]

_reached: Counter[str] = Counter()  # since the variable was set


def failpoint(name: str) -> Action | None:
    """Note that a place is reached; return what its caller is to do with its message, None almost always.

    kill ends this process at once, as if it had lost its power; interrupt is a Ctrl-C; delay sleeps. Raises
    ValueError where the variable cannot be read.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        _reached.clear()
        return None
    _reached[name] += 1
    found = _parse(text).get((name, _reached[name]))
    if found is None:
        return None
    action, seconds = found
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "interrupt":
        raise KeyboardInterrupt
    if action == "delay":
        time.sleep(seconds)
    return action


@lru_cache(maxsize=4)
def _parse(text: str) -> dict[tuple[str, int], tuple[Action, float]]:
    points: dict[tuple[str, int], tuple[Action, float]] = {}
    for part in text.split(","):
        name, count, action, *rest = part.split(":")
        if action not in get_args(Action) or len(rest) > 1:
            raise ValueError(f"{VARIABLE}: {part!r} is not name:count:action[:seconds]")
        points[name, int(count)] = cast(Action, action), float(rest[0]) if rest else 1.0
    return points
