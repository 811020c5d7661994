"""The form of messages on the wire: any closed set of dataclasses of numbers, texts and tensors.

A message is a 4-byte length, a msgpack header (kind, scalars, dtype and shape of each tensor) and the raw
tensor bytes. The wire never names code: kinds and dtypes are numbers of entries in tables, and each field
must be of the type that its class declares: int, float, bool, str, Tensor, tuples of int, str or Tensor,
and Tensor | None. (ours)
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, fields
from typing import Any, Generic, TypeVar, get_type_hints

import msgpack
import torch
from torch import Tensor

from splitft.common.transfer import to_host

MAX_HEADER_BYTES = 1 << 20
MAX_LIST = 1 << 14  # entries of a list in a header: samples of a batch, blocks of a model
MAX_DIMENSIONS = 4
MAX_EMPTY = 1 << 40  # product of an empty tensor's other dimensions: torch counts it in 63 bits
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int8, torch.uint8, torch.int64,
           torch.float64)  # fmt: skip

M = TypeVar("M")


class Wire(Generic[M]):
    """The wire form of the classes in `kinds`.

    Args:
        max_text: Characters of a text, where any class has one.
        open_kinds: Classes that other versions may know with fewer or more fields at their end: those that
            are missing have their defaults, those that are unknown are passed over.
    """

    def __init__(
        self, kinds: Sequence[type[Any]], *, max_text: int = 0, open_kinds: Collection[type[Any]] = ()
    ) -> None:
        self.kinds = tuple(kinds)
        self.max_text = max_text
        # Fields that must be there, of classes that may have fewer or more.
        self._least = {kind: sum(field.default is MISSING for field in fields(kind)) for kind in open_kinds}
        self._schemas = {kind: get_type_hints(kind) for kind in kinds}  # the type of each field, in order

    def encode(self, message: M) -> list[bytes]:
        """Return the wire form as buffers to be written one after another.

        Raises ValueError on a tensor of a dtype that is not on the list.
        """
        header, tensors = self._header(message)
        return [struct.pack("<I", len(header)), header, *(_raw(t) for t in to_host(tensors))]

    def size(self, message: M) -> tuple[int, int]:
        """Return (bytes of length and header, bytes of tensors) without building the wire form."""
        header, tensors = self._header(message)
        return 4 + len(header), sum(t.numel() * t.element_size() for t in tensors)

    def decode(self, buffer: bytes | bytearray | memoryview) -> M:
        """Return the message of a wire form; its fields have the types that its class declares.

        Raises ValueError on anything that is not one message, whole and exact.
        """
        view = memoryview(buffer)
        if len(view) < 4:
            raise ValueError("message shorter than its length field")
        (length,) = struct.unpack("<I", view[:4])
        if length > MAX_HEADER_BYTES or length > len(view) - 4:
            raise ValueError(f"header of {length} bytes is over the limit or cut short")
        reader = _Reader(bytes(view[4 : 4 + length]), view[4 + length :], self.max_text)
        reader.list(2)
        kind = reader.scalar(int)
        if kind >= len(self.kinds):
            raise ValueError("unknown kind of message")
        message_class = self.kinds[kind]
        schema, values = self._schemas[message_class], {}
        least = self._least.get(message_class)
        there = reader.list(len(schema) if least is None else None)
        if there < (least or 0):
            raise ValueError(f"{message_class.__name__} has {there} fields")
        for name, declared in list(schema.items())[:there]:
            try:
                values[name] = reader.field(declared)
            except ValueError as error:
                raise ValueError(f"{message_class.__name__}.{name}: {error}") from None
        for _ in range(there - len(schema)):
            reader.skip()
        if reader.left or reader.body:
            raise ValueError(
                f"{reader.left} bytes after the header, {len(reader.body)} after the last tensor"
            )
        message: M = message_class(**values)
        return message

    def schema(self) -> str:
        """Return the SHA-256 of the classes, their fields and the fields' types, in their order."""
        text = [
            [kind.__name__, [[name, str(declared)] for name, declared in schema.items()]]
            for kind, schema in self._schemas.items()
        ]
        return hashlib.sha256(repr(text).encode()).hexdigest()

    def _header(self, message: M) -> tuple[bytes, list[Tensor]]:
        values: list[Any] = []
        tensors: list[Tensor] = []
        for name, declared in self._schemas[type(message)].items():
            value = getattr(message, name)
            if isinstance(value, Tensor):
                values.append(_describe(value))
                tensors.append(value)
            elif declared == tuple[Tensor, ...]:
                values.append([_describe(tensor) for tensor in value])
                tensors.extend(value)
            else:
                values.append(value)
        return msgpack.packb([self.kinds.index(type(message)), values]), tensors


def _describe(tensor: Tensor) -> list[int]:
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"a message cannot carry tensors of {tensor.dtype}")
    return [_DTYPES.index(tensor.dtype), *tensor.shape]


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


class _Reader:
    """Reads a message value by value, each of the type that is expected there.

    A reader that builds whatever is declared takes memory for it: 17 KB of lists in lists took 128 MB.
    """

    def __init__(self, header: bytes, body: memoryview, max_text: int) -> None:
        none = dict.fromkeys(("max_array_len", "max_bin_len", "max_map_len", "max_ext_len"), 0)
        self.body = body  # raw bytes of the tensors that come next
        self._header = header
        self._unpacker = msgpack.Unpacker(max_str_len=4 * max_text, read_size=max(1, len(header)), **none)
        self._unpacker.feed(header)

    @property
    def left(self) -> int:
        """Bytes of the header that come next."""
        return len(self._header) - int(self._unpacker.tell())

    def field(self, declared: Any) -> Any:
        """Return the next field, which is of the declared type, or raise ValueError."""
        if declared == tuple[Tensor, ...]:
            return tuple(self.tensor() for _ in range(self.list()))
        if declared == tuple[int, ...]:
            return tuple(self.scalar(int) for _ in range(self.list()))
        if declared == tuple[str, ...]:
            return tuple(self.scalar(str) for _ in range(self.list()))
        if declared == Tensor | None:
            at = int(self._unpacker.tell())
            if self._header[at : at + 1] == b"\xc0" and self._next(self._unpacker.unpack) is None:
                return None
        return self.tensor() if declared in (Tensor, Tensor | None) else self.scalar(declared)

    def list(self, length: int | None = None) -> int:
        """Return how many entries follow."""
        found: int = self._next(self._unpacker.read_array_header)
        if length is not None and found != length:
            raise ValueError(f"not a list of {length} entries")
        if found > min(MAX_LIST, self.left):
            raise ValueError(f"a list of {found} entries, {self.left} bytes are there")
        return found

    def skip(self) -> None:
        """Pass over a value of any kind."""
        self._next(self._unpacker.skip)

    def scalar(self, declared: type) -> Any:
        value = self._next(self._unpacker.unpack)
        if type(value) is not declared or (isinstance(value, int) and not 0 <= value < 1 << 63):
            raise ValueError(f"not a valid {declared.__name__}")
        return value

    def tensor(self) -> Tensor:
        """Return the next tensor, which the header describes next."""
        count = self.list()
        if not 1 <= count <= 1 + MAX_DIMENSIONS:
            raise ValueError("no dtype, or too many dimensions")
        number, *shape = (self.scalar(int) for _ in range(count))
        if number >= len(_DTYPES):
            raise ValueError("an unknown dtype")
        dtype = _DTYPES[number]
        size = math.prod(shape) * dtype.itemsize
        if size > len(self.body) or math.prod(max(1, n) for n in shape) > MAX_EMPTY:
            raise ValueError(f"a tensor of shape {shape} is declared, {len(self.body)} bytes are there")
        raw, self.body = bytearray(self.body[:size]), self.body[size:]
        values = torch.frombuffer(raw, dtype=dtype) if size else torch.empty(0, dtype=dtype)
        return values.reshape(shape)

    def _next(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
            raise ValueError(f"unreadable header: {str(error) or type(error).__name__}") from None
