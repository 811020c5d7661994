"""The end of a run: everyone who took part hears of it, whoever was away or killed at that moment. (ours)

The server writes down who has heard, so that one that is killed meanwhile goes on telling when it is back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from splitft.common.files import append_line
from splitft.engines.network.control import End
from splitft.engines.network.transport.listener import Listener

STEPS = "steps.jsonl"  # what took effect at the server, in order
TOLD, OVER = "told", "over"  # events: one client has heard, nobody else is told
SHORT_SECONDS = 1.0  # nobody is told for longer without a word about it

Dismiss = Callable[[End, float], bool]  # tells the aggregator, for so long; whether it has heard


def untold(folder: Path, names: Collection[str]) -> list[str] | None:
    """Return who of these has not heard that the run in `folder` is over; None: nobody is to be told more."""
    path = folder / STEPS
    if not path.exists():  # it was not run by a server
        return None
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    if any(line["event"] == OVER for line in lines):
        return None
    told = {line["client"] for line in lines if line["event"] == TOLD}
    return [name for name in names if name not in told]


def say_farewell(
    listener: Listener,
    names: Collection[str],
    dismiss: Dismiss | None,
    folder: Path,
    seconds: float,
    notice: Callable[[str], None],
    reason: str = "the run is complete",
) -> None:
    """Tell clients, then the aggregator if there is one, that a run is complete; wait for them so long."""

    def told(name: str) -> None:
        append_line(folder / STEPS, json.dumps({"event": TOLD, "client": name}))

    end = End(reason, True)
    left = listener.tell_end(end, names, min(SHORT_SECONDS, seconds), told)
    if left:
        notice(f"{reason}; {', '.join(left)} will be told within {seconds:g} seconds, or not at all")
        left = listener.tell_end(end, left, seconds, told)
    if left:
        notice(f"{', '.join(left)} did not come to hear that {reason}: end what still dials")
    listener.close()
    if dismiss is not None and not dismiss(end, seconds):
        notice(f"the aggregator did not come to hear that {reason}: end it by hand")
    append_line(folder / STEPS, json.dumps({"event": OVER}))
