"""A codec of a user's own, held to its contract at every call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from splitft.common.text import error_line
from splitft.errors import JobError
from splitft.wire.codecs.codec import Codec, Part

R = TypeVar("R")


@dataclass(frozen=True)
class Checked:
    """A codec whose answers are checked: shapes, dtypes, and whether values are finite.

    Raises JobError that names the codec, its method, what was expected and what came.
    """

    name: str
    codec: Codec

    def layout(self, lengths: Sequence[int], width: int) -> tuple[Part, ...]:
        parts = self._call("layout", self.codec.layout, lengths, width)
        if not isinstance(parts, tuple) or not all(isinstance(part, Part) for part in parts):
            raise self._wrong("layout", "a tuple of splitft.Part", repr(parts)[:80])
        return parts

    def encode(self, rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
        wanted = self.layout(lengths, rows.shape[1])
        parts = self._call("encode", self.codec.encode, rows, lengths)
        if not isinstance(parts, tuple | list) or len(parts) != len(wanted):
            came = f"{len(parts)} parts" if isinstance(parts, tuple | list) else type(parts).__name__
            raise self._wrong("encode", f"the {len(wanted)} parts of its layout", came)
        for part, tensor in zip(wanted, parts, strict=True):
            self._check(f"encode, part {part.name!r}", tensor, part.dtype, part.shape)
        return tuple(part.contiguous() for part in parts)

    def decode(self, parts: Sequence[Tensor], lengths: Sequence[int], width: int) -> Tensor:
        rows = self._call("decode", self.codec.decode, parts, lengths, width)
        self._check("decode", rows, torch.float32, (sum(lengths), width))
        if not bool(torch.isfinite(rows).all()):
            raise self._wrong("decode", "finite values", "a value that is infinite or not a number")
        return rows

    def _call(self, method: str, function: Callable[..., R], *arguments: Any) -> R:
        try:
            return function(*arguments)
        except ValueError:  # of rows or parts that are no numbers, which the contract names
            raise
        except Exception as error:  # a codec is any code
            raise JobError(f"codec {self.name}: {method} failed: {error_line(error)}") from error

    def _check(self, what: str, tensor: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        wanted = f"{_short(dtype)} {shape}"
        if not isinstance(tensor, Tensor):
            raise self._wrong(what, wanted, type(tensor).__name__)
        if tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape):
            raise self._wrong(what, wanted, f"{_short(tensor.dtype)} {tuple(tensor.shape)}")

    def _wrong(self, what: str, wanted: str, came: str) -> JobError:
        return JobError(f"codec {self.name}: {what} must return {wanted}, it returned {came}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
