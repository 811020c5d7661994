"""The end of a run: all parties that took part are told, also those that are away or killed just then.

The server logs each client that has heard; one that is killed meanwhile continues when it is restarted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from splitft.common.files import append_line, append_mark
from splitft.common.text import named
from splitft.engines.network.control import AdapterCopy, End, packed
from splitft.engines.network.roster import Roster
from splitft.engines.network.transport.listener import Listener
from splitft.lora.blocks import Adapter, flatten

STEPS = "steps.jsonl"  # what took effect at the server, in order
TOLD, OVER = "told", "over"  # events: a client has heard; no other client is told any more
RESUME = "resume"  # event: the run goes on from a checkpoint
SHORT_SECONDS = 1.0  # of telling without a notice

Dismiss = Callable[[End, float], bool]  # tells the aggregator within seconds; whether it has confirmed


def untold(folder: Path, names: Collection[str]) -> list[str] | None:
    """Return the clients that have not heard that the run in `folder` is over; None: all have been told."""
    path = folder / STEPS
    if not path.exists():  # it was not run by a server
        return None
    lines = _whole_lines(path)
    # A run that was extended has had an end before.
    last = max((i for i, line in enumerate(lines) if line["event"] == RESUME), default=0)
    lines = lines[last:]
    if any(line["event"] == OVER for line in lines):
        return None
    told = {line["client"] for line in lines if line["event"] == TOLD}
    return [name for name in names if name not in told]


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, but for those that a loss of power has torn."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict) and "event" in line]


def say_farewell(
    listener: Listener,
    names: Collection[str],
    dismiss: Dismiss | None,
    folder: Path,
    seconds: float,
    notice: Callable[[str], None],
    *,
    gone: Collection[str] = (),
) -> None:
    """Tell clients, then the aggregator if there is one, that a run is complete; stop listening.

    seconds: the longest wait for either. gone: those of `names` that have been waited for before.
    """

    def told(name: str) -> None:
        append_line(folder / STEPS, json.dumps({"event": TOLD, "client": name}))

    reason = "the run is complete"
    end = End(reason, True)
    left = listener.tell_end(end, names, min(SHORT_SECONDS, seconds), told)
    if waited := [name for name in left if name not in gone]:
        notice(f"{reason}; {named(waited)} will be told within {seconds:g} seconds, or not at all")
        unheard = listener.tell_end(end, waited, seconds, told)
        left = [name for name in left if name not in waited or name in unheard]
    if left:
        notice(f"{named(left)} did not come to hear that {reason}: end what still dials")
    listener.close()
    if dismiss is not None and not dismiss(end, seconds):
        notice(f"the aggregator did not come to hear that {reason}: end it by hand")
    append_mark(folder / STEPS, json.dumps({"event": OVER}))


def hand_out_copies(listener: Listener, roster: Roster, adapter: Adapter) -> None:
    """Send the adapter of a complete run to every client that is there, before it is told the end."""
    ordered = {block: adapter[block] for block in sorted(adapter)}
    copy = packed(AdapterCopy(tuple(ordered), tuple(flatten(block) for block in ordered.values())))
    for name in roster.there():
        listener.send(name, copy, roster[name].session)


def say_away(listener: Listener, hang_up: Callable[[], None] | None, wait: float) -> None:
    """Have clients dial again until the server is back. hang_up: on the aggregator.

    wait: seconds for a second Ctrl-C. Raises KeyboardInterrupt where it comes.
    """
    time.sleep(wait)
    listener.leave()
    if hang_up is not None:
        hang_up()


def say_stop(listener: Listener, names: Collection[str], dismiss: Dismiss | None, reason: str) -> None:
    """Tell clients and the aggregator that a run ends early; stop listening."""
    end = End(reason, False)
    listener.tell_end(end, names, SHORT_SECONDS, lambda name: None)
    listener.close()
    if dismiss is not None:
        dismiss(end, SHORT_SECONDS)
