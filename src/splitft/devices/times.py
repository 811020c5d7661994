"""Where the time of a round went, on a client and as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ClientTimes:
    """Seconds of one client in a round; the first five sum to the round's.

    compute: on the client. transfer: on its link. server: the server working for it. queued: the server
    working for others while it waits. idle: waiting for its turn, for others to arrive, and for the round's
    end. finished: when its adapter has arrived at the server.
    """

    compute: float
    transfer: float
    server: float
    queued: float
    idle: float
    finished: float


@dataclass(frozen=True)
class RoundTimes:
    """A round: it ends when the last adapter has arrived.

    waited_for: the client that finished last (the first of them in order); None without clients.
    server_seconds: the server's work. queued_behind: {client: {other: seconds}}: for whom a client waited
    before the end: for whose work at the server, for whose arrival at a barrier, for whose turn.
    """

    seconds: float
    waited_for: str | None
    server_seconds: float
    clients: dict[str, ClientTimes]
    queued_behind: dict[str, dict[str, float]] = field(default_factory=dict)
