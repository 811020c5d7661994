"""What server and client say to each other beside the messages of training; a closed set, too. (ours)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from splitft.wire.encoding import Wire
from splitft.wire.messages import Message

PROTOCOL = 3
EVALUATION = 0  # in the place of an attempt
MAX_TEXT = 1 << 17  # characters: a job as JSON


@dataclass(frozen=True)
class Hello:
    """Client to server, first on every connection.

    process: drawn at random by every client process. session: the one to go on with, empty for none.
    received: the last piece of it that came. rows, eval_rows: how many it holds. token: the site's secret,
    where one is used.
    """

    protocol: int
    name: str
    token: str
    process: str
    session: str
    received: int


@dataclass(frozen=True)
class Welcome:
    """Server to client: the session to use; `received` is the last piece that came of it (0: it is new).

    job: the job as JSON, in a new session. targets, excluded: names of the modules with LoRA, and of those
    outside blocks that share their names. server_inputs: what the proof of the split found that the server
    needs.
    """

    session: str
    received: int
    job: str
    targets: tuple[str, ...]
    excluded: tuple[str, ...]
    server_inputs: str


@dataclass(frozen=True)
class Refused:
    """Server to client: why it may not take part. again: it may try later."""

    reason: str
    again: bool


@dataclass(frozen=True)
class Ready:
    """Client to server: its data are read; how many rows it trains on and is evaluated on."""

    rows: int
    eval_rows: int


@dataclass(frozen=True)
class Load:
    """Server to client: be as when you had saved your state after so many rounds; 0: as at the start.

    finished: as when you had sent your adapters of the round after these.
    """

    done: int
    finished: bool


@dataclass(frozen=True)
class Loaded:
    """Client to server. ok: false where it has no such state, and is as at the start."""

    done: int
    ok: bool


@dataclass(frozen=True)
class Held:
    """Client to server: it has what it was handed out, and no optimizer state to give back."""

    round: int


@dataclass(frozen=True)
class Train:
    """Server to client: take the local steps of this round, from where you were handed out its adapters.

    attempt: from 1 on; more where the round is repeated. memory: digest of what the server keeps of the
    client's samples, empty for nothing.
    """

    round: int
    attempt: int
    memory: str = ""


@dataclass(frozen=True)
class Started:
    """Client to server: what follows is of this attempt at a round's steps, or EVALUATION.

    memory: the digest that it was told, where it keeps the same; empty: from now on neither keeps anything.
    """

    round: int
    attempt: int
    memory: str = ""


@dataclass(frozen=True)
class Worked:
    """Client to server, after its local steps: seconds that it computed in its front and its tail."""

    round: int
    front_seconds: float
    tail_seconds: float


@dataclass(frozen=True)
class Skip:
    """Server to client: the round goes on without you; be as you were when it started."""

    round: int


@dataclass(frozen=True)
class Evaluate:
    """Server to client: evaluate the held-out rows."""

    round: int


@dataclass(frozen=True)
class Evaluated:
    """Client to server: all held-out rows were sent."""

    round: int


@dataclass(frozen=True)
class Save:
    """Server to client: write down your state after so many rounds."""

    done: int


@dataclass(frozen=True)
class Saved:
    """Client to server."""

    done: int


@dataclass(frozen=True)
class End:
    """Server to client: the run is over. ok: it came to its end."""

    reason: str
    ok: bool


@dataclass(frozen=True)
class Failed:
    """Client to server: it cannot go on, and why."""

    reason: str


@dataclass(frozen=True)
class Average:
    """Server to aggregator: average what these clients handed in with what the trunks trained.

    request: drawn at random. job: SHA-256 of the server's job. clients, cuts, rows: who trained, with which
    cut, and on how many token rows; digests: of what they handed in, (32,) uint8 each. blocks, old: the
    global adapter that they started from, flat. holders, held, weights, values: contributions of trunks, of
    one block each.
    """

    request: str
    job: str
    clients: tuple[str, ...]
    cuts: tuple[int, ...]
    rows: tuple[int, ...]
    digests: tuple[Tensor, ...]
    blocks: tuple[int, ...]
    old: tuple[Tensor, ...]
    holders: tuple[str, ...]
    held: tuple[int, ...]
    weights: tuple[int, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class Averaged:
    """Aggregator to server: the averaged blocks, flat."""

    request: str
    blocks: tuple[int, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class Taken:
    """Aggregator to server: it has a client's update; digest: (32,) uint8.

    blocks, sizes: of what, and how many values each; header_bytes: of the message, without these values.
    """

    client: str
    digest: Tensor
    blocks: tuple[int, ...]
    sizes: tuple[int, ...]
    header_bytes: int


@dataclass(frozen=True)
class Rejected:
    """Aggregator to server: it will not average what a client handed in, or, of no client, anything."""

    client: str
    reason: str


Control = (
    Hello | Welcome | Refused | Ready | Load | Loaded | Held | Train | Started | Worked | Skip | Evaluate
    | Evaluated | Save | Saved | End | Failed | Average | Averaged | Taken | Rejected
)  # fmt: skip

WIRE: Wire[Message | Control] = Wire(get_args(Message) + get_args(Control), max_text=MAX_TEXT)


def packed(message: Message | Control) -> bytes:
    """Return a message as one payload."""
    return b"".join(WIRE.encode(message))
