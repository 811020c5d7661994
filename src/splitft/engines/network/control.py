"""Control messages: all messages between the parties beside those of training; a closed set."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from splitft.wire.encoding import Wire
from splitft.wire.messages import KINDS, Message

PROTOCOL = 2
EVALUATION = 0  # in the place of an attempt
MAX_TEXT = 1 << 17  # characters: a job as JSON


@dataclass(frozen=True)
class Hello:
    """Client to server, first on every connection.

    token: the site's secret, where one is used. process: drawn at random by every client process. session:
    to be continued; empty: none. received: number of its last piece that has come.
    """

    protocol: int
    name: str
    token: str
    process: str
    session: str
    received: int


@dataclass(frozen=True)
class Welcome:
    """Server to client: the session to use.

    received: number of the session's last piece that has come; 0: it is new. Of a new session: job: the job
    as JSON; targets, excluded: names of the modules with LoRA, and of modules outside blocks that share their
    names; server_inputs: what the proof of the split found that the server needs.
    """

    session: str
    received: int
    job: str
    targets: tuple[str, ...]
    excluded: tuple[str, ...]
    server_inputs: str


@dataclass(frozen=True)
class Refused:
    """Server to client: the reason for which it may not take part. again: it may try later."""

    reason: str
    again: bool


@dataclass(frozen=True)
class Ready:
    """Client to server: its data are read; the numbers of its training and held-out rows."""

    rows: int
    eval_rows: int


@dataclass(frozen=True)
class Load:
    """Server to client: restore the checkpoint written after round `done`; 0: the initial state.

    finished: instead, the checkpoint written before the adapters of the next round were sent.
    """

    done: int
    finished: bool


@dataclass(frozen=True)
class Loaded:
    """Client to server. ok: the checkpoint was there; else it has its initial state."""

    done: int
    ok: bool


@dataclass(frozen=True)
class Held:
    """Client to server: it has the hand-out, and no optimizer state to give back."""

    round: int


@dataclass(frozen=True)
class Train:
    """Server to client: take the local steps of this round, from its hand-out on.

    attempt: from 1 on; more where the round is repeated. memory: digest of the server's memory of the
    client's samples; empty: none. codecs: ACTIVATIONS/GRADIENTS from now on, empty: as the job says.
    """

    round: int
    attempt: int
    memory: str = ""
    codecs: str = ""


@dataclass(frozen=True)
class Started:
    """Client to server: the messages from here on are of this attempt at a round's steps, or EVALUATION.

    memory: the digest of Train where its own memory is the same; empty: both begin with an empty one.
    """

    round: int
    attempt: int
    memory: str = ""


@dataclass(frozen=True)
class Worked:
    """Client to server, after its local steps: computing seconds of its front and its tail."""

    round: int
    front_seconds: float
    tail_seconds: float


@dataclass(frozen=True)
class Skip:
    """Server to client: the round goes on without it; restore the state at the hand-out."""

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
    """Server to client: write a checkpoint after round `done`."""

    done: int


@dataclass(frozen=True)
class Saved:
    """Client to server: the checkpoint is written."""

    done: int


@dataclass(frozen=True)
class End:
    """Server to client: the run is over. ok: it is complete."""

    reason: str
    ok: bool


@dataclass(frozen=True)
class Failed:
    """Client to server: it cannot go on."""

    reason: str


@dataclass(frozen=True)
class Average:
    """Server to aggregator: average the clients' updates with the trunks' contributions.

    request: drawn at random. job: SHA-256 of the server's job. clients, cuts, rows, digests: for each client
    that trained, its cut, its token rows and the SHA-256 of its update, (32,) uint8. blocks, old: the global
    adapter that they started from, flat. holders, held, weights, values: for each contribution of a trunk,
    the trunk, the block, the weight and the flat adapter.
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
    """Aggregator to server: it has a client's update.

    digest: (32,) uint8. blocks, sizes: its blocks, and the number of values of each. header_bytes: of its
    message, without these values.
    """

    client: str
    digest: Tensor
    blocks: tuple[int, ...]
    sizes: tuple[int, ...]
    header_bytes: int


@dataclass(frozen=True)
class Rejected:
    """Aggregator to server: it refuses a client's update; without a client: the server's request."""

    client: str
    reason: str


Control = (
    Hello | Welcome | Refused | Ready | Load | Loaded | Held | Train | Started | Worked | Skip | Evaluate
    | Evaluated | Save | Saved | End | Failed | Average | Averaged | Taken | Rejected
)  # fmt: skip

WIRE: Wire[Message | Control] = Wire(
    (
        *KINDS, Hello, Welcome, Refused, Ready, Load, Loaded, Held, Train, Started, Worked, Skip, Evaluate,
        Evaluated, Save, Saved, End, Failed, Average, Averaged, Taken, Rejected,
    ),
    max_text=MAX_TEXT,
)  # fmt: skip


def packed(message: Message | Control) -> bytes:
    """Return a message as one payload."""
    return b"".join(WIRE.encode(message))
