"""What stands in messages and files, as numbers and texts, whatever their form."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from splitft.tools.audit.search import Numbers

LEAST = 8  # whole numbers that a tensor must hold to be looked at
LARGEST = 1 << 31  # bytes of a file that is read
MOST_BYTES = 1 << 26  # of what has no known form that is searched
_WHOLE = re.compile(r"(?<![\w.])-?\d{1,9}(?:\.0+)?(?![\w.])")
_STRANGE = -(1 << 41)  # stands for what is no whole number


@dataclass
class Haystack:
    """The contents of one place. name: a field of a message, or a file, and what of it.

    tensors: those of more than one axis, by name. left: what was not searched to its end.
    """

    name: str
    numbers: list[Numbers] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def add(self, value: Any, name: str = "") -> None:
        """Take in a value: a tensor, a text, bytes, a number, or maps and lists of them."""
        if isinstance(value, Tensor):
            self._add_tensor(value, name)
        elif isinstance(value, str):
            self._add_text(value)
        elif isinstance(value, bytes | bytearray):
            self._add_bytes(bytes(value), name)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self.add(item, f"{name}/{key}")
        elif isinstance(value, list | tuple):
            if value and all(isinstance(one, int | float) and abs(one) < 1e18 for one in value):
                self._add_tensor(torch.tensor(value, dtype=torch.float64), "")
            else:
                for number, item in enumerate(value):
                    self.add(item, f"{name}/{number}")
        elif is_dataclass(value):
            for part in fields(value):
                self.add(getattr(value, part.name), f"{name}/{part.name}")

    def take(self, other: Haystack) -> None:
        """Take in the numbers and texts of another place."""
        self.numbers += other.numbers
        self.texts += other.texts

    def _add_tensor(self, value: Tensor, name: str) -> None:
        flat = value.detach().cpu().flatten()
        if name and value.ndim > 1:
            self.tensors[name] = value.detach().cpu()
        if flat.dtype is torch.uint8:  # bytes of anything
            self._add_bytes(flat.numpy().tobytes(), name)
        if flat.dtype.is_complex or flat.dtype is torch.bool or len(flat) < LEAST:
            return
        exact = flat.double() if flat.is_floating_point() else flat.long()
        whole = torch.isfinite(exact) & (exact == exact.round()) & (exact.abs() < 1 << 40)
        if int(whole.sum()) >= LEAST:
            numbers = torch.where(whole, exact, torch.full_like(exact, -1)).long().numpy()
            numbers[~whole.numpy()] = _STRANGE
            self.numbers.append(numbers)
            self._add_characters(numbers)

    def _add_characters(self, numbers: Numbers) -> None:
        """Take whole numbers for characters, too."""
        known = (numbers >= 9) & (numbers < 0x110000) & ~((numbers >= 0xD800) & (numbers < 0xE000))
        if known.sum() >= LEAST:
            points = np.where(known, numbers, 0).astype("<u4")
            self.texts.append(points.tobytes().decode("utf-32-le"))

    def _add_text(self, text: str) -> None:
        self.texts.append(text)
        found = [float(one) for one in _WHOLE.findall(text)]
        if len(found) >= LEAST:
            self.numbers.append(np.array(found, dtype=np.int64))

    def _add_bytes(self, content: bytes, name: str) -> None:
        """Take bytes for text and for whole numbers of 2, 4 and 8 bytes."""
        if len(content) > MOST_BYTES:
            self.left.append(f"{self.name} {name}".strip())
            content = content[:MOST_BYTES]
        self.texts.append(content.decode("utf-8", "replace"))
        for form in ("<u2", "<i4", "<i8"):
            size = int(form[-1])
            self.numbers.append(np.frombuffer(content[: len(content) // size * size], form).astype(np.int64))


def of_message(message: Any) -> Iterator[Haystack]:
    """Yield a haystack of each field of a message."""
    for part in fields(message) if is_dataclass(message) else ():
        hay = Haystack(part.name)
        hay.add(getattr(message, part.name), part.name)
        yield hay


def of_folder(folder: Path, without: Collection[str] = ()) -> Iterator[Haystack]:
    """Yield a haystack of every file below a folder, in order of their names. Links are not followed.

    without: files of the folder itself that are passed over.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and str(path.relative_to(folder)) not in without:
            yield of_file(path, str(path.relative_to(folder)))


def of_file(path: Path, name: str) -> Haystack:
    """Return what stands in a file: tensors of safetensors, values of JSON, text, else bytes."""
    hay = Haystack(name)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                hay.add(dict(file.metadata() or {}))
                for key in file.keys():  # noqa: SIM118 - no mapping
                    hay.add(file.get_tensor(key), key)
            return hay
        except (OSError, SafetensorError):
            pass
    try:
        if path.stat().st_size > LARGEST:
            raise OSError
        content = path.read_bytes()
    except OSError:
        hay.left.append(name)
        return hay
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        hay.add(content)
        return hay
    hay.add(text)
    # What is escaped in JSON, line by line or as a whole.
    for part in [text] if path.suffix == ".json" else text.splitlines() if path.suffix == ".jsonl" else []:
        try:
            hay.add(json.loads(part))
        except (ValueError, RecursionError):
            continue
    return hay
