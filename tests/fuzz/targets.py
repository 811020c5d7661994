"""All targets, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from fuzz.aggregator import AggregatorTarget
from fuzz.client import ClientTarget
from fuzz.codecs import CodecTarget, MemoryTarget
from fuzz.frames import ConnectionTarget, DiallerTarget
from fuzz.inputs import Target
from fuzz.server import AggregatorAnswersTarget, ServerTarget
from fuzz.told import JoiningTarget, ToldTarget
from fuzz.wire import WireTarget

TARGETS: dict[str, Callable[[], Target]] = {
    "aggregator": AggregatorTarget,
    "answers": AggregatorAnswersTarget,
    "client": ClientTarget,
    "codecs": CodecTarget,
    "connection": ConnectionTarget,
    "dialler": DiallerTarget,
    "joining": JoiningTarget,
    "memories": MemoryTarget,
    "server": ServerTarget,
    "told": ToldTarget,
    "wire": WireTarget,
}


@cache
def target(name: str) -> Target:
    """Return a target, made once in a process."""
    return TARGETS[name]()
