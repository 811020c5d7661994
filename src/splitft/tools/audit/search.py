"""Search for true rows, as ids and as text, in numbers and texts of any origin."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

IDS, CHARACTERS = 8, 48  # of a row, one after another, that must stand somewhere to count as read
SHORT_IDS, SHORT_CHARACTERS = 4, 16  # the same of rows that are shorter, where these are looked for
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_END = -(1 << 40)  # behind each row; stands nowhere else

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Keys = NDArray[np.uint64]


@dataclass(frozen=True)
class Needles:
    """Rows of whole numbers, to be found in other numbers in runs of `run`.

    Args:
        names: What each row is called.
        numbers: All rows, one after another, each with _END behind it.
        starts: (rows + 1,) where each row begins.
    """

    names: Sequence[int]
    numbers: Numbers
    starts: Numbers
    run: int

    @classmethod
    def of(cls, rows: Mapping[int, Numbers], run: int) -> Needles:
        """Return the needles of {name: row}."""
        end = np.array([_END], dtype=np.int64)
        parts = [part for row in rows.values() for part in (row, end)]
        starts = np.cumsum([0, *(len(row) + 1 for row in rows.values())], dtype=np.int64)
        return cls(list(rows), np.concatenate(parts) if parts else end[:0], starts, run)

    @cached_property
    def _keys(self) -> Keys:
        return run_keys(self.numbers, self.run)

    @cached_property
    def _sorted(self) -> Keys:
        return np.sort(self._keys)

    def held_by(self, others: Iterable[Numbers]) -> dict[int, Flags]:
        """Return {name of a row: which of its numbers stand in one of the others, in a run of the row}."""
        known, seen = self._sorted, list[Keys]()
        for other in others if len(known) else ():
            keys = run_keys(other, self.run)
            keys = keys[known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys]
            if len(keys):
                seen.append(np.unique(keys))
        if not seen:
            return {}
        hits = np.flatnonzero(np.isin(self._keys, np.unique(np.concatenate(seen))))
        covered = np.zeros(len(self.numbers), dtype=bool)
        for place in hits:
            covered[place : place + self.run] = True
        rows = np.unique(np.searchsorted(self.starts, hits, side="right") - 1)
        return {self.names[row]: covered[self.starts[row] : self.starts[row + 1] - 1] for row in rows}


def run_keys(numbers: Numbers, run: int) -> Keys:
    """Return a hash of each run of `run` numbers, (numbers - run + 1,)."""
    count = max(0, len(numbers) - run + 1)
    keys, values = np.zeros(count, dtype=np.uint64), numbers.astype(np.uint64)
    for offset in range(run if count else 0):
        keys = (keys ^ values[offset : offset + count]) * _FACTOR
        keys ^= keys >> np.uint64(29)
    return keys


def needles_of(rows: Sequence[Numbers], run: int, least: int) -> list[Needles]:
    """Return the needles of rows, those of all shorter ones of `least` numbers or more by their length."""
    by_run: dict[int, dict[int, Numbers]] = defaultdict(dict)
    for name, row in enumerate(rows):
        if len(row) >= least:
            by_run[min(run, len(row))][name] = row
    return [Needles.of(own, length) for length, own in by_run.items()]


class RowSearch:
    """Rows, to be found as ids and as text.

    Args:
        rows: (tokens,) ids each.
        short: Whether rows are looked for, too, that are shorter than IDS and CHARACTERS.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Tensor], *, short: bool = False
    ) -> None:
        self._tokenizer, self._rows, self._short = tokenizer, rows, short

    @cached_property
    def _ids(self) -> list[Needles]:
        rows = [row.long().numpy() for row in self._rows]
        return needles_of(rows, IDS, SHORT_IDS if self._short else IDS)

    @cached_property
    def _text(self) -> list[Needles]:
        rows = [code_points(self._decoded(row)) for row in self._rows]
        return needles_of(rows, CHARACTERS, SHORT_CHARACTERS if self._short else CHARACTERS)

    def as_ids(self, numbers: Sequence[Numbers]) -> dict[int, Tensor]:
        """Return {row: its ids as far as they stand in these numbers, -1 elsewhere}."""
        return {
            row: torch.where(torch.from_numpy(flags), self._rows[row].long(), -1)
            for needles in self._ids
            for row, flags in needles.held_by(numbers).items()
        }

    def as_text(self, texts: Sequence[str]) -> dict[int, Tensor]:
        """Return {row: its ids as far as their text stands in these texts, -1 elsewhere}."""
        points = [code_points(text) for text in texts]
        return {
            row: self._read(row, flags)
            for needles in self._text
            for row, flags in needles.held_by(points).items()
        }

    def _read(self, row: int, flags: Flags) -> Tensor:
        """Return the ids of a row whose characters are all among those that were found, -1 elsewhere."""
        ids, place = self._rows[row].long(), 0
        read = torch.full_like(ids, -1)
        # The characters of a token are those that it adds to the text; of one that adds none, the next one.
        for number in range(len(ids)):
            end = min(len(code_points(self._decoded(ids[: number + 1]))), len(flags))
            own = flags[min(place, len(flags) - 1) : max(end, place + 1)]
            if own.all():
                read[number] = ids[number]
            place = end
        return read

    def _decoded(self, ids: Tensor) -> str:
        return str(self._tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))


def code_points(text: str) -> Numbers:
    """Return the characters of a text as numbers; a run of white space counts as one space."""
    even = " ".join(text.split())
    return np.frombuffer(even.encode("utf-32-le", "replace"), dtype="<u4").astype(np.int64)
