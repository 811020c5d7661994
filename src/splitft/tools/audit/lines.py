"""From what the attacks read to the lines of an audit: each guess beside the true rows and the floors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splitft.tools.audit.attacks.ids import read_back
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.capture import TrueRow
from splitft.tools.audit.metrics import Reading, rare_tokens, read

SENT_AS_TEXT, INVERTER, VERIFY, LABELS = "ids as ids", "inverter", "verify by forward", "gradients"
NOT_SENT, NOT_TRIED = "not sent", "not tried"
SEEN = 0.01  # share of the tokens that a field must hold to be told


@dataclass(frozen=True)
class Line:
    """What one attack read of one client at its cut.

    reading: None where nothing of the kind is sent, or, with `tried` False, where the attack cannot be made.
    """

    client: str
    cut: int | None
    of: str  # "text" or "labels"
    attack: str
    reading: Reading | None
    note: str = ""
    tried: bool = True

    @property
    def verdict(self) -> str:
        """The verdict, in fixed words."""
        if self.reading is not None:
            return self.reading.verdict
        return NOT_SENT if self.tried else NOT_TRIED

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
            own.append((other[:-1] if labels else other[1:])[wanted].tolist())
            by_model.append(likely[:-1][wanted].tolist())
        floors = {"the most frequent token": unigrams(truth)}
        if model:
            floors["the model's next token"] = by_model
        return read(truth, own, floors, self.rare, seed)

    def held_by(self, field: Tensor) -> tuple[float, list[Tensor]]:
        """Return the share of the tokens that a field of ids holds, and these rows as its reader has them.

        A token that the field does not hold is the model's guess, so that what is read exceeds guessing.
        """
        held = [read_back(row.ids, field) for row in self.rows]
        tokens = sum(len(row.ids) for row in self.rows)
        whole = []
        for own, likely in zip(held, self.model, strict=True):
            guessed = torch.cat([own[:1], likely[:-1]])
            whole.append(torch.where(own >= 0, own, guessed))
        return sum(int((own >= 0).sum()) for own in held) / max(tokens, 1), whole


def truth_of(
    knowledge: ServerKnowledge, rows: Sequence[TrueRow], own_rows: Sequence[Sequence[int]], count: int
) -> TruthOf:
    """Return the first `count` different samples of a client of 2 tokens or more, with their floors.

    rows: all samples of its messages. own_rows: ids of all rows that the client trains on.
    """
    seen: dict[tuple[int, ...], int] = {}
    for place, row in enumerate(rows):
        if len(row.ids) > 1:
            seen.setdefault(tuple(row.ids.tolist()), place)
    places = list(seen.values())[:count]
    kept = [rows[place] for place in places]
    model = knowledge.likeliest_next([row.ids for row in kept])
    return TruthOf(kept, places, model, rare_tokens(own_rows))


def unigrams(truth: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the guess that every token is the most frequent one of these rows."""
    counts = Counter(token for row in truth for token in row)
    best = counts.most_common(1)[0][0] if counts else -1
    return [[best] * len(row) for row in truth]
