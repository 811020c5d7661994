"""Repair of an inverter's guess by running candidates through the front and comparing what came.

Any model whose front runs will do: short sequences, no cache of keys and values. (ours)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitft.tools.audit.attacks.inverter import Inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge

FIRST, CANDIDATES = 8, 32  # of the inverter: tried at first, and all
FROM_MODEL = 32  # likeliest next tokens of the model on what was recovered so far
OPENERS = 2048  # likeliest first tokens of a row that are tried
_CALIBRATION_ROWS, _SLACK = 24, 2.0
_BETTER = 0.8  # of the distance of the inverter's own guess, where no candidate is near enough


@dataclass(frozen=True)
class Noise:
    """What the codec and the dtype add. weight: (hidden,) of squared differences; limit: of a right token."""

    weight: Tensor
    limit: float

    def distances(self, rows: Tensor, others: Tensor) -> Tensor:
        """Return the weighted squared distance of each row, (tokens,)."""
        return ((rows - others).pow(2) * self.weight).sum(-1)


def measure_noise(knowledge: ServerKnowledge, cut: int) -> Noise:
    """Return the noise of a cut, measured on public rows: alone without a codec, in a batch through it."""
    rows = list(knowledge.public[:_CALIBRATION_ROWS])
    clean = [knowledge.front([row], cut)[0] for row in rows]
    came = knowledge.through_codec(knowledge.front(rows, cut))
    there, away = (torch.cat([own[1:] for own in part]) for part in (clean, came))
    weight = 1 / ((away - there).pow(2).mean(0) + 1e-4 * there.var(0) + 1e-12) / there.shape[1]
    noise = Noise(weight, 0.0)
    # In these units the noise itself is near 1, or below where a smaller share of the variance is its floor.
    return Noise(weight, max(1.0, _SLACK * float(noise.distances(away, there).quantile(0.99))))


def repair(
    knowledge: ServerKnowledge,
    cut: int,
    observed: Sequence[Tensor],
    inverter: Inverter,
    noise: Noise,
    prior: float = 0.0,
) -> list[Tensor]:
    """Return the ids of each row: the inverter's, repaired at one mismatch after another.

    observed: (tokens, hidden) activations of each row, as they arrived. prior: weight of the model's log
    probability against half of the squared distance; 0: the distance alone.
    """
    # The inverter's guess; the first token is looked up among those that could open a row.
    tops = [inverter.candidates(row, CANDIDATES) for row in observed]
    guesses = [top[:, 0].clone() for top in tops]
    firsts = first_tokens(knowledge, cut, torch.stack([row[0] for row in observed]), [t[0] for t in tops])
    for guess, first in zip(guesses, firsts.tolist(), strict=True):
        guess[0] = first
    place = [1] * len(observed)
    live = list(range(len(observed)))

    # Go to each row's next mismatch, and try candidates there.
    while live:
        states = knowledge.front([guesses[row] for row in live], cut)
        for row, state in zip(list(live), states, strict=True):
            wrong = (noise.distances(state, observed[row]) > noise.limit).nonzero().flatten()
            later = wrong[wrong >= place[row]]
            if len(later):
                place[row] = int(later[0])
            else:
                live.remove(row)
        ids = {row: tops[row][place[row], :FIRST] for row in live}
        far = _distances(knowledge, cut, observed, guesses, place, ids, noise)
        hard = [row for row in live if far[row].min() > noise.limit]
        log_p = _what_follows(knowledge, guesses, place, hard)
        likely = {row: own.topk(min(FROM_MODEL, knowledge.vocabulary)).indices for row, own in log_p.items()}
        extra = {row: torch.cat([tops[row][place[row], FIRST:], likely[row]]) for row in hard}
        farther = _distances(knowledge, cut, observed, guesses, place, extra, noise)
        for row in hard:
            ids[row], far[row] = torch.cat([ids[row], extra[row]]), torch.cat([far[row], farther[row]])
        for row in live:
            expected = prior * log_p[row][ids[row]] if prior and row in log_p else None
            guesses[row][place[row]] = ids[row][pick(far[row], noise, expected)]
            place[row] += 1
        live = [row for row in live if place[row] < len(guesses[row])]
    return guesses


def pick(far: Tensor, noise: Noise, expected: Tensor | None = None) -> int:
    """Return which candidate stands. far: their distances, that of the inverter's own guess first.

    expected: weighed log probabilities of the model; None: the distance alone decides.
    """
    if expected is not None:
        return int((expected - 0.5 * len(noise.weight) * far).argmax())
    best = int(far.argmin())
    # Else something before it is wrong, distances say little, and the inverter's guess stands.
    return best if far[best] <= max(noise.limit, _BETTER * float(far[0])) else 0


@torch.no_grad()
def first_tokens(knowledge: ServerKnowledge, cut: int, came: Tensor, likely: Sequence[Tensor]) -> Tensor:
    """Return the likeliest first token of each row, (rows,). likely: candidates of each row's inverter."""
    seen = torch.cat(list(knowledge.public))
    counts = torch.bincount(seen, minlength=knowledge.vocabulary)
    common = counts.topk(min(OPENERS, len(counts))).indices
    tried = torch.cat([common, *likely]).unique()  # type: ignore[no-untyped-call]
    states = torch.cat(knowledge.front(list(tried[:, None]), cut))
    near = torch.cdist(came, states) if len(came) else came.new_zeros(0, len(tried))
    nearest: Tensor = tried[near.argmin(-1)]
    return nearest


def _distances(
    knowledge: ServerKnowledge,
    cut: int,
    observed: Sequence[Tensor],
    guesses: Sequence[Tensor],
    place: Sequence[int],
    candidates: dict[int, Tensor],
    noise: Noise,
) -> dict[int, Tensor]:
    """Return {row: the distance of each of its candidates from what came at its place}."""
    sequences = []
    for row, ids in candidates.items():
        repeated = guesses[row][: place[row] + 1].repeat(len(ids), 1)
        repeated[:, -1] = ids
        sequences += list(repeated)
    states = iter(knowledge.front(sequences, cut))
    return {
        row: noise.distances(torch.stack([next(states)[-1] for _ in ids]), observed[row][place[row]])
        for row, ids in candidates.items()
    }


def _what_follows(
    knowledge: ServerKnowledge, guesses: Sequence[Tensor], place: Sequence[int], rows: Sequence[int]
) -> dict[int, Tensor]:
    """Return {row: the model's (vocabulary,) log probabilities at its place}."""
    own = knowledge.next_log_probabilities([guesses[row][: place[row]] for row in rows])
    return dict(zip(rows, own, strict=True))
