"""The closed set of messages between clients and server, and their form on the wire.

A message is a 4-byte length, a msgpack header (kind, scalars, dtype and shape of each tensor) and the raw
tensor bytes. The wire never names code: kinds and dtypes are numbers of entries in the tables below, and each
field must be of the type that its class declares. (ours)
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, get_type_hints

import msgpack
import torch
from torch import Tensor

MAX_HEADER_BYTES = 1 << 20
MAX_LIST = 1 << 14  # entries of a list in a header: samples of a batch, blocks of a model
MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class AdapterDown:
    """Server to client: its cut, the adapters that it lacks of blocks it holds, and what goes with them.

    values: one flat float32 tensor a block (adapters.flatten); of the blocks in `frozen` B alone.
    rebased, bases: changes of basis since the client last had a block, oldest first; (pairs, rank, rank).
    moved, moved_steps, moments: optimizer state of blocks that came to the client with a higher cut.
    """

    round: int
    cut: int
    blocks: tuple[int, ...]
    frozen: tuple[int, ...]
    values: tuple[Tensor, ...]
    rebased: tuple[int, ...] = ()
    bases: tuple[Tensor, ...] = ()
    moved: tuple[int, ...] = ()
    moved_steps: tuple[int, ...] = ()  # of every tensor, block after block
    moments: tuple[Tensor, ...] = ()  # one flat float32 tensor a block (moments.pack)


@dataclass(frozen=True)
class OptimizerState:
    """Client to server: the optimizer state of blocks that left the client with a lower cut."""

    round: int
    moved: tuple[int, ...]
    moved_steps: tuple[int, ...]
    moments: tuple[Tensor, ...]


@dataclass(frozen=True)
class AdapterUp:
    """Client to server: what it trained of its blocks, and the gradient norms of its last local step."""

    round: int
    blocks: tuple[int, ...]
    values: tuple[Tensor, ...]
    grad_norms: Tensor | None = None  # (trained tensors,) float32


@dataclass(frozen=True)
class Activations:
    """Client to server: what leaves the front ("smashed data"), valid rows only.

    hidden: (tokens, hidden), the rows of all samples one after another; lengths: tokens of each sample.
    labels: (tokens,) int32 with -100 where there is no loss, only with `labels: server`.
    input_ids: (tokens,) int32, only for models whose later blocks read them.
    loss_tokens: tokens with loss in the whole optimizer step, stated when it spans several micro-batches.
    grad_norms: gradient norms of the client's tensors in the previous step, for clipping over all parts.
    """

    round: int
    step: int
    micro_step: int
    train: bool
    lengths: tuple[int, ...]
    hidden: Tensor
    labels: Tensor | None = None
    input_ids: Tensor | None = None
    loss_tokens: int = 0
    grad_norms: Tensor | None = None


@dataclass(frozen=True)
class TrunkOutput:
    """Server to client, with `labels: client`: (tokens, hidden) where the tail begins."""

    round: int
    step: int
    micro_step: int
    train: bool
    hidden: Tensor


@dataclass(frozen=True)
class TailGradients:
    """Client to server, with `labels: client`: (tokens, hidden) gradient at the tail's input."""

    round: int
    step: int
    micro_step: int
    loss: float
    loss_tokens: int
    gradient: Tensor


@dataclass(frozen=True)
class Gradients:
    """Server to client: (tokens, hidden) gradient of the loss at the cut."""

    round: int
    step: int
    micro_step: int
    loss: float
    gradient: Tensor
    grad_norms: Tensor | None = None  # (trained tensors of the trunk,) float32


@dataclass(frozen=True)
class Metrics:
    """Sums over evaluation tokens: negative log-likelihood (nats), right next tokens, tokens.

    paper_correct, paper_tokens: the same for the paper's figure, which compares the prediction for position
    t + 1 with token t. Counts of right tokens are floats, so that a message's size does not tell them.
    """

    round: int
    nll: float
    correct: float
    tokens: int
    paper_correct: float
    paper_tokens: int


@dataclass(frozen=True)
class LocalLoss:
    """Client to server, where whole models are trained on the clients: the loss of one micro-batch.

    lengths: tokens of each sample, their sum is the client's weight in the average; loss_tokens: those with
    loss in the whole optimizer step.
    """

    round: int
    step: int
    micro_step: int
    loss: float
    lengths: tuple[int, ...]
    loss_tokens: int


Message = (
    AdapterDown
    | OptimizerState
    | AdapterUp
    | Activations
    | TrunkOutput
    | TailGradients
    | Gradients
    | Metrics
    | LocalLoss
)

_KINDS: tuple[type[Any], ...] = (
    AdapterDown,
    OptimizerState,
    AdapterUp,
    Activations,
    TrunkOutput,
    TailGradients,
    Gradients,
    Metrics,
    LocalLoss,
)
_SCHEMAS = {kind: get_type_hints(kind) for kind in _KINDS}  # the declared type of each field, in order
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int8, torch.uint8, torch.int64)


def encode(message: Message) -> list[bytes]:
    """Return the wire form as buffers to be written one after another.

    Raises ValueError on a tensor of a dtype that is not on the list.
    """
    header, tensors = _header(message)
    return [struct.pack("<I", len(header)), header, *(_raw(t) for t in tensors)]


def wire_size(message: Message) -> tuple[int, int]:
    """Return (bytes of length and header, bytes of tensors) without building the wire form."""
    header, tensors = _header(message)
    return 4 + len(header), sum(t.numel() * t.element_size() for t in tensors)


def _header(message: Message) -> tuple[bytes, list[Tensor]]:
    values: list[Any] = []
    tensors: list[Tensor] = []
    for name, declared in _SCHEMAS[type(message)].items():
        value = getattr(message, name)
        if isinstance(value, Tensor):
            values.append(_describe(value))
            tensors.append(value)
        elif declared == tuple[Tensor, ...]:
            values.append([_describe(tensor) for tensor in value])
            tensors.extend(value)
        else:
            values.append(value)
    return msgpack.packb([_KINDS.index(type(message)), values]), tensors


def _describe(tensor: Tensor) -> list[int]:
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"a message cannot carry tensors of {tensor.dtype}")
    return [_DTYPES.index(tensor.dtype), *tensor.shape]


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def decode(buffer: bytes | bytearray | memoryview) -> Message:
    """Return the message of a wire form; its fields have the types that its class declares.

    Raises ValueError on anything that is not one message, whole and exact.
    """
    view = memoryview(buffer)
    if len(view) < 4:
        raise ValueError("message shorter than its length field")
    (length,) = struct.unpack("<I", view[:4])
    if length > MAX_HEADER_BYTES or length > len(view) - 4:
        raise ValueError(f"header of {length} bytes is over the limit or cut short")
    limits = dict.fromkeys(("max_str_len", "max_bin_len", "max_map_len", "max_ext_len"), 0)
    try:  # a list is allocated when it is declared: it has no more entries than the header has bytes
        header = msgpack.unpackb(view[4 : 4 + length], max_array_len=min(length, MAX_LIST), **limits)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"unreadable header: {error}") from None
    kind, values = _list(header, 2)
    message_class = _KINDS[kind] if type(kind) is int and 0 <= kind < len(_KINDS) else None
    if message_class is None:
        raise ValueError("unknown kind of message")
    schema, body, fields = _SCHEMAS[message_class], _Body(view[4 + length :]), {}
    for (name, declared), value in zip(schema.items(), _list(values, len(schema)), strict=True):
        try:
            fields[name] = _read(value, declared, body)
        except ValueError as error:
            raise ValueError(f"{message_class.__name__}.{name}: {error}") from None
    if body.left:
        raise ValueError(f"{body.left} bytes after the last tensor")
    return message_class(**fields)  # type: ignore[no-any-return]


def _read(value: Any, declared: Any, body: _Body) -> Any:
    """Return a field of the declared type from its form in a header, or raise ValueError."""
    if declared == tuple[Tensor, ...]:
        return tuple(body.take(item) for item in _list(value))
    if declared == tuple[int, ...]:
        return tuple(_scalar(item, int) for item in _list(value))
    if declared == Tensor | None and value is None:
        return None
    return body.take(value) if declared in (Tensor, Tensor | None) else _scalar(value, declared)


def _scalar(value: Any, declared: Any) -> Any:
    if type(value) is not declared or (declared is int and not 0 <= value < 1 << 63):
        raise ValueError(f"not a valid {declared.__name__}")
    return value


def _list(value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or length not in (None, len(value)):
        raise ValueError("not a list" if length is None else f"not a list of {length} entries")
    return value


class _Body:
    """Hands out tensors from the raw bytes that follow a header."""

    def __init__(self, view: memoryview) -> None:
        self.view = view

    @property
    def left(self) -> int:
        return len(self.view)

    def take(self, description: Any) -> Tensor:
        numbers: list[int] = [_scalar(number, int) for number in _list(description)]
        if not 1 <= len(numbers) <= 1 + MAX_DIMENSIONS or numbers[0] >= len(_DTYPES):
            raise ValueError("no dtype, an unknown one, or too many dimensions")
        dtype, shape = _DTYPES[numbers[0]], numbers[1:]
        size = math.prod(shape) * dtype.itemsize
        if size > self.left:
            raise ValueError(f"a tensor of shape {shape} is declared, {self.left} bytes are there")
        raw, self.view = bytearray(self.view[:size]), self.view[size:]
        values = torch.frombuffer(raw, dtype=dtype) if size else torch.empty(0, dtype=dtype)
        return values.reshape(shape)
