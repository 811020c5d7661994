"""How much of the rows a guess reads, beside what guessing reads, with intervals over rows: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000  # of the bootstrap
RARE = 3  # a rare token stands at most as often in a client's own rows
ENOUGH_TOKENS = 1000  # before "no better than guessing" may be said
READABLE, PARTLY, GUESSING = 0.5, 0.05, 0.05
METRICS = ("tokens", "rare", "rouge_l", "exact")

Ids = Sequence[int]
Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A share, its floor by guessing, and the excess of the one over the other with its 95 % interval."""

    value: float
    floor: float
    floor_by: str
    excess: float
    low: float
    high: float
    count: int  # what the share is of: tokens, rare tokens or rows


@dataclass(frozen=True)
class Reading:
    """What one attack read of one client's rows."""

    tokens: Estimate
    rare: Estimate
    rouge_l: Estimate
    exact: Estimate
    verdict: str
    rows: int

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)


def rare_tokens(rows: Sequence[Ids]) -> set[int]:
    """Return the ids that stand at most RARE times in a client's own rows."""
    counts = Counter(token for row in rows for token in row)
    return {token for token, count in counts.items() if count <= RARE}


def read(
    truth: Sequence[Ids], guess: Sequence[Ids], floors: Mapping[str, Sequence[Ids]], rare: set[int], seed: int
) -> Reading:
    """Score a guess of some rows.

    truth, guess, and each of floors: ids of every row, of the same lengths. floors: {name: guess without any
    observation}; the best one counts. rare: ids of rare tokens.
    """
    own = row_sums(truth, guess, rare)
    by_floor = {name: row_sums(truth, other, rare) for name, other in floors.items()}
    found = {}
    for metric in METRICS:
        best = max(by_floor, key=lambda name: share(by_floor[name][metric]))
        found[metric] = estimate(own[metric], by_floor[best][metric], best, seed)
    return Reading(**found, verdict=verdict(found["tokens"]), rows=len(truth))


def row_sums(truth: Sequence[Ids], guess: Sequence[Ids], rare: set[int]) -> dict[str, Sums]:
    """Return {metric: (rows, 2) of hits and what they are of}."""
    sums: dict[str, list[tuple[float, float]]] = {metric: [] for metric in METRICS}
    for own, other in zip(truth, guess, strict=True):
        right = [a == b for a, b in zip(own, other, strict=True)]
        seldom = [hit for hit, token in zip(right, own, strict=True) if token in rare]
        sums["tokens"].append((sum(right), len(right)))
        sums["rare"].append((sum(seldom), len(seldom)))
        sums["rouge_l"].append((rouge_l(own, other), 1.0))
        sums["exact"].append((float(all(right)), 1.0))
    return {metric: np.asarray(values, dtype=np.float64).reshape(-1, 2) for metric, values in sums.items()}


def rouge_l(truth: Ids, guess: Ids) -> float:
    """Return the F-measure of the longest common subsequence of two rows of ids (Lin, 2004)."""
    if not truth or not guess:
        return 0.0
    before = [0] * (len(guess) + 1)
    for one in truth:
        now = [0]
        for place, other in enumerate(guess):
            now.append(before[place] + 1 if one == other else max(before[place + 1], now[-1]))
        before = now
    return 2 * before[-1] / (len(truth) + len(guess))


def share(sums: Sums) -> float:
    """Return hits by what they are of; 0 where there is nothing."""
    hits, of = sums.sum(0)
    return float(hits / of) if of else 0.0


def estimate(own: Sums, floor: Sums, floor_by: str, seed: int) -> Estimate:
    """Return a share beside its floor. Interval: bootstrap over rows, DRAWS draws, the same for both."""
    value, guessed = share(own), share(floor)
    drawn = np.random.default_rng(seed).integers(0, max(len(own), 1), (DRAWS, len(own)))
    of = np.maximum(own[drawn, 1].sum(1), 1e-9)
    excesses = (own[drawn, 0].sum(1) - floor[drawn, 0].sum(1)) / of
    low, high = np.quantile(excesses, [0.025, 0.975]) if len(own) else (-1.0, 1.0)
    return Estimate(value, guessed, floor_by, value - guessed, float(low), float(high), int(own[:, 1].sum()))


def verdict(tokens: Estimate) -> str:
    """Return what the interval of the excess says, in fixed words."""
    if tokens.low >= READABLE:
        return "readable"
    if tokens.low > PARTLY:
        return "partly readable"
    if tokens.high <= GUESSING and tokens.count >= ENOUGH_TOKENS:
        return "no better than guessing for these attacks"
    return "too few rows to tell"


def auc(scores: Sequence[Sequence[float]], flags: Sequence[Sequence[bool]], seed: int) -> tuple[float, ...]:
    """Return how well scores of tokens tell flagged ones from others: the area under the ROC curve.

    With the ends of its 95 % interval (bootstrap over rows, DRAWS draws); 0.5 is guessing, and so are rows
    without tokens of both kinds. scores, flags: of the tokens of each row.
    """
    drawn = np.random.default_rng(seed).integers(0, max(len(scores), 1), (DRAWS, len(scores)))
    found = [_auc([scores[row] for row in one], [flags[row] for row in one]) for one in drawn]
    low, high = np.quantile(found, [0.025, 0.975])
    return _auc(scores, flags), float(low), float(high)


def _auc(scores: Sequence[Sequence[float]], flags: Sequence[Sequence[bool]]) -> float:
    """Return the area by ranks (Mann and Whitney, 1947); equal scores share their ranks."""
    values = np.concatenate([np.asarray(own, dtype=np.float64) for own in scores] or [np.zeros(0)])
    chosen = np.concatenate([np.asarray(own, dtype=bool) for own in flags] or [np.zeros(0, dtype=bool)])
    count, others = int(chosen.sum()), int((~chosen).sum())
    if not count or not others:
        return 0.5
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[chosen].sum() - count * (count + 1) / 2) / (count * others))


def auc_verdict(low: float) -> str:
    """Return what the lower end of an area's interval says, by its distance from 0.5 in halves."""
    excess = 2 * low - 1
    return (
        "readable" if excess >= READABLE else "partly readable" if excess > PARTLY else "too few rows to tell"
    )
