"""What server and client say to each other beside the messages of training; a closed set, too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TypeVar, get_args

from torch import Tensor

from splitft.common.text import plain
from splitft.engines.network.sum_messages import SumAnswer, SumRequest, Trained
from splitft.wire.encoding import Wire
from splitft.wire.messages import AdapterDown, Gradients, Message, Metrics, TrunkOutput

PROTOCOL = 9  # counts changes of the messages: see SCHEMA
EVALUATION = 0  # in the place of an attempt
DIVERGED = "what it computes is not finite; its own output says why"  # a client's reason to end
STOPPED = "it was stopped, and comes back when it is started again"  # a client's reason to be away
AWAY = "it stops for a while, and comes back"  # a listener's last status
TICKET_BYTES = 16  # of `HandIn`
MAX_TEXT = 1 << 17  # characters: a job as JSON


@dataclass(frozen=True)
class _OfRound:
    round: int


@dataclass(frozen=True)
class _AfterRounds:
    done: int


@dataclass(frozen=True)
class Hello:
    """Client to server, first on every connection."""

    protocol: int
    name: str
    token: str  # the site's secret, where one is used
    process: str  # drawn at random by every client process
    session: str  # the one to go on with, empty for none
    received: int  # the last piece of it that came
    schema: str = ""  # of the messages that it knows; empty: a version before this field
    version: str = ""  # of splitft


@dataclass(frozen=True)
class Welcome:
    """Server to client: the session to use, and the job in a new one."""

    session: str = ""
    received: int = 0  # the last piece of the session that came; 0: it is new
    job: str = ""  # as JSON
    targets: tuple[str, ...] = ()  # names of the modules with LoRA
    excluded: tuple[str, ...] = ()  # names of modules outside blocks that share these names
    server_inputs: str = ""  # what the proof of the split found that the server needs
    optional: tuple[str, ...] = ()  # keys of the job that a client need not know
    things: tuple[str, ...] = ()  # what a client must have the same, and versions: see `sameness`
    values: tuple[str, ...] = ()  # of each of these


@dataclass(frozen=True)
class Refused:
    """Server to client: why it may not take part."""

    reason: str
    again: bool  # it may try later


@dataclass(frozen=True)
class Ready:
    """Client to server: its data are read; how many rows it trains on and is evaluated on."""

    rows: int
    eval_rows: int
    things: tuple[str, ...] = ()  # as in Welcome, of the part of the model that it holds
    values: tuple[str, ...] = ()
    memory_key: str = ""  # lent to a running server: seals samples in its checkpoints; empty: none


@dataclass(frozen=True)
class Load:
    """Server to client: restore your state."""

    done: int  # rounds after which the client saved the state; 0: the initial state
    finished: bool  # instead, the state in which the client sent its adapters of the round after these


@dataclass(frozen=True)
class Loaded:
    """Client to server."""

    done: int
    ok: bool  # false where the client has no such state, and restored the initial one


class Held(_OfRound):
    """Client to server: it has what it was handed out, and no optimizer state to give back."""


@dataclass(frozen=True)
class Train:
    """Server to client: take the local steps of this round, from where you were handed out its adapters."""

    round: int
    attempt: int  # from 1 on; more where the round is repeated
    memory: str = ""  # digest of what the server keeps of the client's samples, empty for nothing


@dataclass(frozen=True)
class Started:
    """Client to server: what follows is of this attempt at a round's steps."""

    round: int
    attempt: int  # or EVALUATION
    memory: str = ""  # the server's digest, where the client keeps the same; empty: neither keeps anything


@dataclass(frozen=True)
class Worked:
    """Client to server, after its local steps: seconds of computing."""

    round: int
    front_seconds: float
    tail_seconds: float


class Skip(_OfRound):
    """Server to client: the round goes on without you; be as you were when it started."""


@dataclass(frozen=True)
class Evaluate:
    """Server to client: evaluate held-out rows, or send their ids where the server evaluates by itself."""

    round: int
    sample: int  # rows of the client's sample
    whole: bool  # the other rows, too
    have: int  # batches of them that the server has


class Evaluated(_OfRound):
    """Client to server: all held-out rows were sent."""


class Save(_AfterRounds):
    """Server to client: write down your state after so many rounds."""


class Saved(_AfterRounds):
    """Client to server."""


@dataclass(frozen=True)
class End:
    """Server to client: the run is over."""

    reason: str
    ok: bool  # it came to its end


@dataclass(frozen=True)
class Failed:
    """Client to server: it cannot go on, and why."""

    reason: str
    again: bool = False  # it cannot take part yet: its owner may mend that, and it comes again


@dataclass(frozen=True)
class Average:
    """Server to aggregator: average what these clients handed in with what the trunks trained."""

    request: str  # drawn at random
    job: str  # SHA-256 of the server's job
    round: int
    clients: tuple[str, ...]  # that trained
    cuts: tuple[int, ...]  # of each client
    rows: tuple[int, ...]  # token rows of each client
    digests: tuple[Tensor, ...]  # of each client's update, (32,) uint8
    blocks: tuple[int, ...]
    old: tuple[Tensor, ...]  # the global adapter that they started from: these blocks, flat
    holders: tuple[str, ...]  # of the trunks' contributions, of one block each
    held: tuple[int, ...]  # the block of each contribution
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
    """Aggregator to server: it has a client's update."""

    client: str
    ticket: Tensor  # as in `HandIn`
    digest: Tensor  # (32,) uint8
    blocks: tuple[int, ...]
    sizes: tuple[int, ...]  # values of each block


@dataclass(frozen=True)
class Rejected:
    """Aggregator to server: it refuses what a client sent, and the client from now on."""

    client: str  # empty: it will not average anything
    reason: str


@dataclass(frozen=True)
class HandIn:
    """Client to aggregator: its update of a round."""

    ticket: Tensor  # (TICKET_BYTES,) uint8, drawn at random for each update; the server hears it from both
    round: int
    blocks: tuple[int, ...]
    values: tuple[Tensor, ...]  # of each block, flat


@dataclass(frozen=True)
class Unaveraged:
    """Aggregator to server: the updates of these clients of a request cannot be averaged, each with why."""

    request: str
    clients: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class AdapterCopy:
    """Server to client, at the end of a run whose job says so: the whole adapter, to be kept."""

    blocks: tuple[int, ...]
    values: tuple[Tensor, ...]  # of each block, flat


Control = (
    Hello | Welcome | Refused | Ready | Load | Loaded | Held | Train | Started | Worked | Skip | Evaluate
    | Evaluated | Save | Saved | End | Failed | Average | Averaged | Taken | Rejected | HandIn | Unaveraged
    | Trained | SumRequest | SumAnswer | AdapterCopy
)  # fmt: skip

Said = Message | Control  # all messages on a connection
FROM_SERVER = (
    AdapterDown,
    TrunkOutput,
    Gradients,
    Metrics,
    Load,
    Train,
    Skip,
    Evaluate,
    Save,
    End,
    AdapterCopy,
    *get_args(SumRequest),
)  # in a session

M = TypeVar("M")

# The handshake is read whatever the version of the other end: its classes keep their places and their first
# fields, and only ever get more at their end.
WIRE: Wire[Said] = Wire(get_args(Said), max_text=MAX_TEXT, open_kinds=(Hello, Welcome, Refused, End))
SCHEMA = WIRE.schema()[:12]  # of both ends must be the same
VERSION = version("splitft")


def packed(message: Said) -> bytes:
    """Return a message as one payload."""
    return b"".join(WIRE.encode(message))


def in_plain_words(message: M) -> M:
    """Return a server's message whose texts for people have no control characters."""
    if isinstance(message, Refused | End):
        return replace(message, reason=plain(message.reason))
    return message
