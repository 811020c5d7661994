"""Codecs by name: the built-in ones, and those that a user registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

from splitft.errors import JobError, unknown_name
from splitft.job.settings import WireSettings
from splitft.wire.codecs.bf16 import BF16
from splitft.wire.codecs.codec import Codec
from splitft.wire.codecs.int8 import Int8
from splitft.wire.codecs.lowbit import OUTLIERS, LowBit

NONE = "none"  # rows as they are
DELTA = "delta"  # differences; the memory of samples makes them
DELTA_GRADIENTS = "int2"  # beside codec delta
What = Literal["activations", "gradients"]
MakeCodec = Callable[[], Codec]
W = TypeVar("W", bound=WireSettings)

_BITS = {"int4": 4, "int3": 3, "int2": 2}
_OF_BOTH: dict[str, MakeCodec] = {"bf16": BF16, "int8": Int8}
_GRADIENTS = _OF_BOTH | {name: partial(LowBit, bits) for name, bits in _BITS.items()}
_ACTIVATIONS = _OF_BOTH | {
    name: partial(LowBit, bits, outliers=OUTLIERS, apart=True)
    for name, bits in (_BITS | {DELTA: 4}).items()  # delta: of samples that go whole
}
_REGISTERED: dict[str, MakeCodec] = {}


def register_codec(name: str, make: MakeCodec) -> None:
    """Make a codec of your own known as `codec: NAME` in this process.

    make: the class, or whatever else returns a `Codec` when called without arguments. Over a network the
    server and every client must register it. Raises JobError for a built-in's name, an empty one, or what
    cannot be called.
    """
    if not isinstance(name, str) or not name:
        raise JobError(f"the name of a codec must be a string that is not empty, not {name!r}")
    if name == NONE or name in _ACTIVATIONS:
        raise JobError(f"{name} is a built-in codec: register yours under another name")
    if not callable(make):
        raise JobError(f"codec {name} must be a class or a function without arguments, not {make!r}")
    _REGISTERED[name] = make


def codec_names() -> list[str]:
    """The names of all codecs: the built-in ones from the finest on, then those registered."""
    return [NONE, *_ACTIVATIONS, *_REGISTERED]


def make_codec(name: str, what: What) -> Codec | None:
    """Return the codec of a name for activations or gradients; None: rows are sent as they are.

    Raises JobError with the nearest name and the list of all.
    """
    if name == NONE:
        return None
    built_in = _ACTIVATIONS if what == "activations" else _GRADIENTS
    make = built_in.get(name) or _REGISTERED.get(name)
    if make is None:
        raise unknown_name("codec", name, codec_names(), "register_codec")
    return make()


def codecs_of(settings: WireSettings, *, network: bool = False) -> dict[str, str]:
    """Return {key: name} of a job's codecs, of those that it leaves open, too.

    Gradients go like activations. Rows to evaluate go as bfloat16 where activations are rounded at all: a
    perplexity is to be the adapter's, not the codec's.
    """
    codec = settings.codec or ("int8" if network else NONE)
    return {
        "codec": codec,
        "gradient_codec": settings.gradient_codec or (DELTA_GRADIENTS if codec == DELTA else codec),
        "eval_codec": settings.eval_codec or (NONE if codec == NONE else "bf16"),
    }


def network_job(job: W) -> W:
    """Return a job as it is over a network, with its codecs stated."""
    return job.model_copy(update=codecs_of(job, network=True))


def check_codecs(job: WireSettings) -> None:
    """Raise JobError where the job names a codec that nobody has registered."""
    for key, name in codecs_of(job).items():
        try:
            make_codec(name, "activations")
        except JobError as error:
            raise JobError(f"{key}: {error}") from None
