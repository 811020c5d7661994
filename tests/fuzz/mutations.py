"""Mutations of bytes, and of the fields of messages. All randomness comes from the generator given."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

import msgpack
import torch
from torch import Tensor

from splitft.engines.network.control import DIVERGED, WIRE
from splitft.wire.encoding import _DTYPES

EDGES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x90, 0x91, 0xC0, 0xC1, 0xC4, 0xCA, 0xCB, 0xCF, 0xD3, 0xDC, 0xDD,
         0xDF)  # fmt: skip
INTS = (0, 1, 2, 3, 5, 255, 256, 65535, 10**6, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63,
        -1, -(2**31), -(2**63), 2**64 - 1)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, 1e-9, 1e6, 1e9, 1.1e9, 1e300, -1e300, float("inf"),
          float("-inf"), float("nan"))  # fmt: skip
TEXTS = ("", "x", "\x1b[2J\x1b]52;c;eA==\x07", "\x00", "\r\n\n", "\u202egnp.exe", "a" * 5000, "é" * 140_000,
         "../../etc/passwd", "inf", "NaN", "2**63", DIVERGED)  # fmt: skip
NUMBERS = (0.0, 1.0, -1.0, 1e-30, 1e5, 1e7, 1e30, -1e30, float("inf"), float("-inf"), float("nan"))
WRONG = (None, True, -1, 0.5, "text", b"bytes", [], [[]], [1, 2], {}, {"a": 1})  # of no type, or another one
LIST_LENGTHS = (0, 1, 2, 17, 300, 16384, 16385)

Mutation = Callable[[bytearray, random.Random, bytes], None]


@dataclass(frozen=True)
class Claimed:
    """A tensor whose description says something else. entries: dtype and shape as stated."""

    entries: tuple[Any, ...]
    raw: bytes


def flip(data: bytearray, rng: random.Random, other: bytes) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_byte(data: bytearray, rng: random.Random, other: bytes) -> None:
    data[rng.randrange(min(len(data), 200))] = rng.choice(EDGES)


def insert(data: bytearray, rng: random.Random, other: bytes) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 9, 40)))


def delete(data: bytearray, rng: random.Random, other: bytes) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 1, 2, 4, 64))]


def truncate(data: bytearray, rng: random.Random, other: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


def edit_length(data: bytearray, rng: random.Random, other: bytes) -> None:
    """A length field: of the header, or of four bytes anywhere near the start."""
    at = rng.choice((0, 0, rng.randrange(min(len(data), 60))))
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice((0, 1, len(data), len(data) - 4, 1 << 14, 1 << 20, (1 << 31) - 1, (1 << 63) - 1, -1))
    data[at : at + size] = (value % (1 << (8 * size))).to_bytes(size, rng.choice(("little", "big")))


MUTATIONS: tuple[Mutation, ...] = (flip, flip, set_byte, insert, delete, truncate, splice, edit_length)


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return a seed with one to three mutations of its bytes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3))):
        if data:
            rng.choice(MUTATIONS)(data, rng, rng.choice(seeds))
    return bytes(data)


def damaged(message: Any, rng: random.Random, others: Sequence[Any] = ()) -> bytes:
    """Return the wire form of a message of which one to three fields have other values.

    others: messages whose fields may take the place of one of the same name.
    """
    kind, schema = type(message), types_of(type(message))
    names = list(schema)
    values: list[Any] = [getattr(message, name) for name in names]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = rng.randrange(len(names))
        name = names[place]
        known = [getattr(other, name) for other in others if hasattr(other, name)]
        if known and rng.random() < 0.15:
            values[place] = rng.choice(known)
        else:
            values[place] = changed(schema[name], getattr(message, name), rng)
    number = WIRE.kinds.index(kind)
    if rng.random() < 0.03:  # fields that are missing, or too many, or another kind
        rng.choice((lambda: values.pop(), lambda: values.append(values[-1]), values.reverse))()
    if rng.random() < 0.02:
        number = rng.choice((*range(len(WIRE.kinds)), len(WIRE.kinds), 127))
    return loose(number, values)


def changed(declared: Any, value: Any, rng: random.Random) -> Any:
    """Return another value for a field, rarely one of another type."""
    if rng.random() < 0.03:
        return rng.choice(WRONG)
    if declared == Tensor | None:
        return changed_tensor(torch.ones(3) if value is None else value, rng) if rng.random() < 0.7 else None
    if declared is Tensor:
        return changed_tensor(value, rng)
    if declared in (tuple[int, ...], tuple[str, ...], tuple[Tensor, ...]):
        return changed_tuple(declared, list(value), rng)
    if declared is bool:
        return not value
    if declared is int:
        return rng.choice((rng.choice(INTS), value + 1, max(0, value - 1), 2 * value))
    if declared is float:
        return rng.choice((rng.choice(FLOATS), -value, value * 1e3))
    return rng.choice((rng.choice(TEXTS), value[: len(value) // 2], value + value, value + "x"))


def changed_tuple(declared: Any, values: list[Any], rng: random.Random) -> list[Any]:
    """Return other entries: one changed, lost, twice, moved, or very many of them."""
    one = declared.__args__[0]
    counts = (
        LIST_LENGTHS if one is int else (*LIST_LENGTHS[:5], 3000) if rng.random() < 0.02 else LIST_LENGTHS[:5]
    )
    new = {int: rng.choice(INTS), str: rng.choice(TEXTS[:6])}.get(one)
    new = torch.ones(rng.choice((0, 1, 6, 160))) if one is Tensor else new
    if not values:
        return [new] * rng.choice(counts)
    place = rng.randrange(len(values))
    match rng.randrange(8):
        case 0:
            del values[place]
        case 1:
            values.insert(place, values[place])
        case 2:
            values.append(new)
        case 3:
            values.reverse()
        case 4:
            values = [new if one is str else values[0]] * rng.choice(counts)
        case 5:
            values = []
        case _:
            values[place] = changed(one, values[place], rng)
    return values


def changed_tensor(value: Any, rng: random.Random) -> Any:
    """Return a tensor of another shape, type or of other values; or one that is described wrongly."""
    if not isinstance(value, Tensor):
        value = torch.ones(4)
    flat, size = value.reshape(-1).clone(), value.numel()
    match rng.randrange(14):
        case 0:
            return value.to(rng.choice(_DTYPES))
        case 1:
            return value[: rng.randrange(len(value) + 1)] if value.ndim else value.reshape(1)
        case 2:
            return torch.cat([value, value]) if value.ndim else value.reshape(1, 1)
        case 3:
            return flat
        case 4:
            return value[None] if value.ndim < 4 else value[0]
        case 5:
            return value.transpose(0, -1).contiguous() if value.ndim else value
        case 6:
            return value.new_empty(rng.choice(((0,), (0, 0), (0, 32), (4, 0), ())))
        case 7 if size and value.is_floating_point():
            flat[rng.randrange(size)] = rng.choice(NUMBERS)
            return flat.reshape(value.shape)
        case 8 if value.is_floating_point():
            return torch.full_like(value, rng.choice(NUMBERS))
        case 9 if size:
            flat[rng.randrange(size)] = (
                rng.choice((0, 1, 127, -100)) if value.dtype is not torch.uint8 else 255
            )
            return flat.reshape(value.shape)
        case 10 if value.is_floating_point():
            return value * rng.choice((-1.0, 0.0, 1e3, 1e6, 1e20))
        case 11 | 12:
            stated = rng.choice((0, 1, 5, 1 << 31, 1 << 62, (1 << 63) - 1))
            shape = list(value.shape) or [1]
            shape[rng.randrange(len(shape))] = stated
            raw = flat.view(torch.uint8).numpy().tobytes() if size else b""
            kinds = (*range(len(_DTYPES)), len(_DTYPES), 99)
            return Claimed((rng.choice(kinds), *shape, *rng.choice(((), (0,), (1,), (1, 1, 1)))), raw)
        case _:
            more = torch.arange(size, dtype=torch.float32) % 7 - 3
            return more.reshape(value.shape).to(value.dtype)


def loose(number: int, values: Sequence[Any]) -> bytes:
    """Return the wire form of whatever stands in these fields."""
    raw: list[bytes] = []

    def described(value: Any) -> Any:
        if isinstance(value, Tensor):
            flat = value.detach().contiguous().reshape(-1)
            raw.append(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
            return [_DTYPES.index(value.dtype), *value.shape]
        if isinstance(value, Claimed):
            raw.append(value.raw)
            return list(value.entries)
        if isinstance(value, tuple | list):
            return [described(one) for one in value]
        return value

    header: bytes = msgpack.packb([number, [described(value) for value in values]])
    return struct.pack("<I", len(header)) + header + b"".join(raw)


def sample(declared: Any, rng: random.Random) -> Any:
    """Return a value of a field's type, small and valid."""
    match declared:
        case _ if declared == tuple[int, ...]:
            return tuple(rng.randrange(1, 5) for _ in range(rng.randrange(4)))
        case _ if declared == tuple[str, ...]:
            return ("q_proj", "v_proj")
        case _ if declared == tuple[Tensor, ...]:
            return (torch.ones(6), torch.zeros(2, 3, dtype=torch.bfloat16))
        case _ if declared in (Tensor, Tensor | None):
            return torch.ones(7, 32)
    return {int: 3, float: 0.5, bool: True, str: "a text"}[declared]


@cache
def types_of(kind: type) -> dict[str, Any]:
    """Return the type of each field of a message."""
    return get_type_hints(kind)


@cache
def one_of_each() -> list[Any]:
    """Return every message of training, and everything else that is said."""
    rng = random.Random(0)
    return [
        kind(**{name: sample(declared, rng) for name, declared in types_of(kind).items()})
        for kind in WIRE.kinds
    ]
