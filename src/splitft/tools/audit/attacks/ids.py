"""Attack on ids that are sent as ids: every field of a message whose numbers could be token ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

LEAST = 4  # numbers in a field that could be text
RUN = 8  # tokens in a row that must stand in a field to count as read


def id_fields(message: Any, vocabulary: int) -> dict[str, Tensor]:
    """Return {field: its numbers as ids}, of all fields of a message that could hold token ids.

    message: a message as the server is given it. vocabulary: ids lie below it; -100 stands for no label.
    A field of floats counts, too, where nearly all of its numbers are whole.
    """
    found = {}
    for name, values in _numbers(message):
        whole = (values == values.round()) & (values >= -100) & (values < vocabulary)
        if len(values) >= LEAST and whole.float().mean() >= 0.95:
            found[name] = torch.where(whole, values, torch.full_like(values, -1)).long()
    return found


def read_back(row: Tensor, seen: Tensor, run: int = RUN) -> Tensor:
    """Return a row of ids as far as it stands in `seen`, -1 elsewhere.

    A token counts where it lies in a run of `run` tokens of the row that stands in `seen` in that order.
    """
    run = min(run, len(row))
    known = {tuple(part) for part in seen.unfold(0, run, 1).tolist()} if len(seen) >= run else set()
    out = torch.full_like(row, -1)
    for start, part in enumerate(row.unfold(0, run, 1).tolist()):
        if tuple(part) in known:
            out[start : start + run] = row[start : start + run]
    return out


def _numbers(message: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield every field of numbers, flat, in float64; parts of a field one by one."""
    for field in fields(message) if is_dataclass(message) else ():
        value = getattr(message, field.name)
        parts = value if isinstance(value, tuple) and value and isinstance(value[0], Tensor) else (value,)
        for part in parts:
            if isinstance(part, Tensor) and part.numel():
                yield field.name, part.detach().flatten().double().cpu()
            elif isinstance(part, tuple | list) and all(isinstance(one, int | float) for one in part):
                yield field.name, torch.tensor(part, dtype=torch.float64)
