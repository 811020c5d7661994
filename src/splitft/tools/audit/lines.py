"""From what the attacks read to the lines of an audit: each guess beside the true rows and the floors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.capture import MOST_TOKENS, TrueRow
from splitft.tools.audit.metrics import Reading, rare_tokens, read

SENT_AS_TEXT, INVERTER, VERIFY, LABELS = "ids as ids", "inverter", "verify by forward", "gradients"
NORMS = "gradient norms"
NOT_SENT, NOT_TRIED, NOT_FOUND = "not sent", "not tried", "not found"
SEEN = 0.01  # share of the tokens that a field must hold to be told


@dataclass(frozen=True)
class Line:
    """What one attack read of one client at its cut.

    reading: None where there is nothing to read, or the attack cannot be made; `absence` says which.
    """

    client: str
    cut: int | None
    of: str  # "text", "labels" or "answers": which tokens of a row these are
    attack: str
    reading: Reading | None
    note: str = ""
    absence: str = NOT_SENT

    @property
    def verdict(self) -> str:
        """The verdict, in fixed words."""
        return self.reading.verdict if self.reading is not None else self.absence

    def to_json(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        return {
            "client": self.client,
            "cut": self.cut,
            "of": self.of,
            "attack": self.attack,
            "verdict": self.verdict,
            "note": self.note,
            "reading": self.reading.to_json() if self.reading else None,
        }


@dataclass(frozen=True)
class TruthOf:
    """The rows of one client that are audited, and what guessing without any message reads of them.

    rows: samples; places: of these samples in the client's messages. model: (tokens,) likeliest next token
    of the model on the true tokens before, of each row. rare: ids of rare tokens in the client's own rows.
    """

    rows: list[TrueRow]
    places: list[int]
    model: list[Tensor]
    rare: set[int]

    def score(
        self, guess: Sequence[Tensor], seed: int, *, labels: bool = False, model: bool = True
    ) -> Reading:
        """Score a guess of the first rows: (tokens,) ids each, or, with `labels`, of each token's successor.

        model: whether guessing may use the model; else it is the most frequent token alone. The first token
        of a row does not count: nothing comes before it that the model could guess it from.
        """
        truth, own, by_model = [], [], []
        for row, other, likely in zip(self.rows, guess, self.model, strict=False):
            wanted = row.labels[1:] >= 0 if labels else row.ids[1:] >= 0
            truth.append(row.ids[1:][wanted].tolist())
            other = other[: len(row.ids)]
            own.append((other[:-1] if labels else other[1:])[wanted].tolist())
            by_model.append(likely[:-1][wanted].tolist())
        floors = {"the most frequent token": unigrams(truth)}
        if model:
            floors["the model's next token"] = by_model
        return read(truth, own, floors, self.rare, seed)

    def only(self, numbers: Sequence[int]) -> TruthOf:
        """Return the truth of some of the rows, by their numbers here."""
        rows, places = [self.rows[number] for number in numbers], [self.places[number] for number in numbers]
        return TruthOf(rows, places, [self.model[number] for number in numbers], self.rare)

    def filled(self, found: Mapping[int, Tensor]) -> list[Tensor]:
        """Return {row: ids, -1 where unknown} as guesses of all rows: what is unknown is the model's guess.

        So what is read exceeds guessing.
        """
        guesses = []
        for number, (row, likely) in enumerate(zip(self.rows, self.model, strict=True)):
            own = found.get(number, torch.full_like(row.ids, -1))[: len(row.ids)]
            guesses.append(torch.where(own >= 0, own, torch.cat([own[:1], likely[:-1]])))
        return guesses


def truth_of(
    knowledge: ServerKnowledge,
    rows: Sequence[TrueRow],
    own_rows: Sequence[Sequence[int]],
    count: int,
    *,
    longest: bool = False,
) -> TruthOf:
    """Return the first `count` different samples of a client of 2 tokens or more, with their floors.

    rows: all samples of its messages; MOST_TOKENS of each count. own_rows: ids of all rows that the client
    trains on. longest: the longest samples in place of the first.
    """
    seen: dict[tuple[int, ...], int] = {}
    for place, row in enumerate(rows):
        if len(row.ids) > 1:
            seen.setdefault(tuple(row.ids.tolist()), place)
    places = list(seen.values())
    if longest:
        places.sort(key=lambda place: -len(rows[place].ids))
    places = places[:count]
    kept = [TrueRow(rows[place].ids[:MOST_TOKENS], rows[place].labels[:MOST_TOKENS]) for place in places]
    model = knowledge.likeliest_next([row.ids for row in kept])
    return TruthOf(kept, places, model, rare_tokens(own_rows))


def unigrams(truth: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the guess that every token is the most frequent one of these rows."""
    counts = Counter(token for row in truth for token in row)
    best = counts.most_common(1)[0][0] if counts else -1
    return [[best] * len(row) for row in truth]
