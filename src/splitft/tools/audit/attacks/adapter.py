"""What a trained adapter tells of the rows that it was trained on: membership and canaries (A5).

The attacker has the adapter, the base model, and the rows that it asks about. Each score is how much likelier
a row became by the training: its loss at the run's start less its loss at the end. Sources: membership by
loss with a reference model: Yeom et al. (CSF 2018), Carlini et al. (S&P 2022), §4; exposure of canaries:
Carlini et al., "The Secret Sharer" (USENIX Security 2019), §4.3; interval of the AUC: DeLong et al.
(Biometrics 1988).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Membership:
    """How well training rows are told from held-out ones: the AUC, .5 for guessing, with its interval."""

    auc: float
    low: float
    high: float
    trained: int
    held_out: int


@dataclass(frozen=True)
class Level:
    """The canaries of one number of copies.

    exposures: in bits, of each; a canary that was never planted has 1.44 on average.
    first: canaries that are likelier than every reference.
    """

    copies: int
    exposures: tuple[float, ...]
    first: int

    @property
    def median(self) -> float:
        """The median exposure, in bits."""
        return float(np.median(self.exposures))


@dataclass(frozen=True)
class AdapterReading:
    """What an adapter tells of one client's rows. references: sentences that canaries are ranked among."""

    client: str
    membership: Membership | None  # None: too few rows of either kind
    levels: tuple[Level, ...]  # empty without canaries
    references: int

    @property
    def most_bits(self) -> float:
        """The largest exposure that so many references can show."""
        return math.log2(self.references + 1)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)


def membership(trained: Scores, held_out: Scores) -> Membership | None:
    """Return the AUC of scores, (rows,), of training rows against held-out ones.

    A tie counts half. None with fewer than 2 rows of one kind.
    """
    if min(len(trained), len(held_out)) < 2:
        return None
    wins = np.sign(trained[:, None] - held_out[None, :]) / 2 + 0.5
    auc = float(wins.mean())
    variance = wins.mean(1).var(ddof=1) / len(trained) + wins.mean(0).var(ddof=1) / len(held_out)
    half = _Z * math.sqrt(float(variance))
    return Membership(auc, max(0.0, auc - half), min(1.0, auc + half), len(trained), len(held_out))


def exposure(score: float, references: Scores) -> float:
    """Return log2 of the candidates, references and canary, by the canary's rank among them, in bits.

    A tie counts half a rank. Nothing is extrapolated: the most is log2(references + 1).
    """
    rank = 1 + float((references > score).sum()) + float((references == score).sum()) / 2
    return math.log2((len(references) + 1) / rank)


def levels_of(copies: Sequence[int], scores: Scores, references: Scores) -> tuple[Level, ...]:
    """Return the levels of canaries, by their numbers of copies.

    scores: (canaries,). references: (sentences,).
    """
    found = []
    for level in sorted(set(copies)):
        own = [float(score) for number, score in zip(copies, scores, strict=True) if number == level]
        bits = tuple(exposure(score, references) for score in own)
        found.append(Level(level, bits, sum(bool(score > references.max()) for score in own)))
    return tuple(found)
