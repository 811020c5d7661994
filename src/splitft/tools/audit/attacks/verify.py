"""Repair of an inverter's guess by running candidates through the front and comparing what came.

Any model whose front runs will do: no cache of keys and values is needed. (ours)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitft.tools.audit.attacks.inverter import Inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.attacks.successors import Successors

FIRST, CANDIDATES = 8, 32  # of the inverter: tried at first, and all
FROM_MODEL = 32  # likeliest next tokens of the model on what was recovered so far
LOST = 4  # places in a row without a candidate that is near enough: then the model is not asked any more
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
    place, lost, successors = [1] * len(observed), [0] * len(observed), Successors(knowledge, cut)
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
        # The inverter's first candidates, then its others, then what the model expects.
        tried = Tried(successors, observed, guesses, place, noise)
        tried.add({row: tops[row][place[row], :FIRST] for row in live})
        hard = tried.unlike(live)
        tried.add({row: tops[row][place[row], FIRST:] for row in hard})
        hardest = hard if prior else [row for row in tried.unlike(hard) if lost[row] < LOST]
        log_p = _what_follows(knowledge, guesses, place, hardest)
        tried.add({r: own.topk(min(FROM_MODEL, knowledge.vocabulary)).indices for r, own in log_p.items()})
        for row in live:
            ids, far = tried.ids[row], tried.far[row]
            expected = prior * log_p[row][ids] if prior and row in log_p else None
            guesses[row][place[row]] = ids[pick(far, noise, expected)]
            lost[row] = lost[row] + 1 if far.min() > noise.limit else 0
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


@dataclass(frozen=True)
class Tried:
    """Candidates of each row at its place, and their distances from what came there."""

    successors: Successors
    observed: Sequence[Tensor]
    guesses: Sequence[Tensor]
    place: Sequence[int]
    noise: Noise
    ids: dict[int, Tensor] = field(default_factory=dict)
    far: dict[int, Tensor] = field(default_factory=dict)

    def add(self, candidates: Mapping[int, Tensor]) -> None:
        """Try further candidates, {row: ids}."""
        wanted = {row: ids for row, ids in candidates.items() if len(ids)}
        prefixes = [self.guesses[row][: self.place[row]] for row in wanted]
        states = self.successors.states(prefixes, list(wanted.values()))
        for (row, ids), own in zip(wanted.items(), states, strict=True):
            far = self.noise.distances(own, self.observed[row][self.place[row]])
            known = self.ids.get(row, ids[:0]), self.far.get(row, far[:0])
            self.ids[row], self.far[row] = torch.cat([known[0], ids]), torch.cat([known[1], far])

    def unlike(self, rows: Sequence[int]) -> list[int]:
        """Return those of these rows of which no candidate is near enough."""
        return [row for row in rows if self.far[row].min() > self.noise.limit]


def _what_follows(
    knowledge: ServerKnowledge, guesses: Sequence[Tensor], place: Sequence[int], rows: Sequence[int]
) -> dict[int, Tensor]:
    """Return {row: the model's (vocabulary,) log probabilities at its place}."""
    own = knowledge.next_log_probabilities([guesses[row][: place[row]] for row in rows])
    return dict(zip(rows, own, strict=True))
