"""What a server says of its clients: the line and the event of each change."""

from __future__ import annotations

from collections.abc import Sequence

from splitft.common.notices import Notice
from splitft.common.text import first_few
from splitft.engines.network.control import STOPPED


def expelled(name: str, reason: str) -> Notice:
    """It takes part no more."""
    return Notice(f"{name} is expelled: {reason}", "client.expelled", "error", client=name, reason=reason)


def not_ready(name: str, reason: str) -> Notice:
    """It cannot take part yet, or has said that it stops for a while."""
    if reason == STOPPED:
        return Notice(f"{name} is away: {STOPPED}", "client.away", "warning", client=name, reason=STOPPED)
    text = f"{name} is not ready, and waited for: {reason}"
    return Notice(text, "client.not_ready", "warning", client=name, reason=reason)


def lost(name: str, reason: str) -> Notice:
    """Its connection is lost."""
    return Notice(f"{name} is lost: {reason}", "client.lost", "warning", client=name, reason=reason)


def back(name: str) -> Notice:
    """Its connection is there again, in the same session."""
    return Notice(f"{name} is connected again", "client.back", client=name)


def state_lost(name: str) -> Notice:
    """It has not restored the state that the server counts on."""
    text = f"{name} has lost its state: its optimizer starts from zero"
    return Notice(text, "client.state_lost", "warning", client=name)


def takes_part(name: str, rows: int) -> Notice:
    """Its data are read, and its state is restored."""
    return Notice(f"{name} takes part with {rows} rows", "client.takes_part", client=name, rows=rows)


def left_out(name: str) -> Notice:
    """A round goes on without it."""
    return Notice(f"the round goes on without {name}", "round.without", "warning", client=name)


def too_late(names: Sequence[str]) -> Notice:
    """As many as count had taken their steps before these, of whom more were drawn."""
    text = f"{len(names)} clients were drawn and came too late: {first_few(names, 5)}"
    return Notice(text, "round.late", clients=len(names))
