"""Codecs by name: the built-in ones, and those that a user registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar, overload

from splitft.common.registry import Registry
from splitft.job.settings import WireSettings
from splitft.wire.codecs.bf16 import BF16
from splitft.wire.codecs.checked import Checked
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
CODECS: Registry[MakeCodec] = Registry("codec", "register_codec", _ACTIVATIONS, [NONE])


@overload
def register_codec(name: str, make: MakeCodec) -> MakeCodec: ...
@overload
def register_codec(name: str, make: None = None) -> Callable[[MakeCodec], MakeCodec]: ...
def register_codec(name: str, make: MakeCodec | None = None) -> MakeCodec | Callable[[MakeCodec], MakeCodec]:
    """Register a codec of your own as `codec: NAME`; without `make`, a decorator for its class.

    make: the class, or whatever else returns a `Codec` when called without arguments. Over a network the
        server and every client must register it.

    Raises JobError for a built-in's name, an empty one, or what cannot be called.
    """
    return CODECS.register(name, make)


def make_codec(name: str, what: What) -> Codec | None:
    """Return the codec of a name for activations or gradients; None: rows are sent as they are.

    A codec of a user's own is held to its contract at every call. Raises JobError with the nearest name and
    the list of all.
    """
    if name == NONE:
        return None
    if what == "gradients" and name in _GRADIENTS:
        return _GRADIENTS[name]()
    codec = CODECS.find(name)()
    return codec if CODECS.is_built_in(name) else Checked(name, codec)


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
        CODECS.check(key, name)
