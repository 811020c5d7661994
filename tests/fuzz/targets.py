"""All targets, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from fuzz.client import ClientTarget
from fuzz.inputs import Target
from fuzz.server import ServerTarget

TARGETS: dict[str, Callable[[], Target]] = {
    "client": ClientTarget,
    "server": ServerTarget,
}


@cache
def target(name: str) -> Target:
    """Return a target, made once in a process."""
    return TARGETS[name]()
