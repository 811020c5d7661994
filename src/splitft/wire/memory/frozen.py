"""The activations of samples that a server keeps where fronts are frozen: they never change. (ours)

Both ends count alike what is kept, so that a client sends no sample twice and asks nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


class Index:
    """Which samples are kept: the first ones, up to so many tokens; none is ever dropped for another."""

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._tokens = 0
        self._lengths: dict[int, int] = {}

    def missing(self, samples: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Return the places in a batch of the samples that must be sent."""
        return self._walk(samples, lengths)[0]

    def admit(self, samples: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Note a batch; return the places of the samples that are sent with it.

        Raises ValueError where a sample has another length than before.
        """
        sent, new = self._walk(samples, lengths)
        self._lengths |= new
        self._tokens += sum(new.values())
        return sent

    def _walk(self, samples: Sequence[int], lengths: Sequence[int]) -> tuple[list[int], dict[int, int]]:
        """Return the places of what is sent, and {sample: length} of what of it is kept."""
        sent: list[int] = []
        new: dict[int, int] = {}
        room = self._most_tokens - self._tokens
        for place, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            known = self._lengths.get(sample) or new.get(sample)
            if known not in (None, length):
                raise ValueError(f"lengths: sample {sample} has {length} tokens, and had {known}")
            if known is None:
                sent.append(place)
                if length <= room:
                    new[sample] = length
                    room -= length
        return sent, new

    def __contains__(self, sample: int) -> bool:
        return sample in self._lengths


@dataclass(frozen=True)
class Kept:
    """What came of a sample: (tokens, width) activations, and ids where they are sent."""

    hidden: Tensor
    labels: Tensor | None
    input_ids: Tensor | None
