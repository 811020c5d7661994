"""From what the attacks read to the lines of an audit: each guess beside the true rows and the floors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.capture import TrueRow
from splitft.tools.audit.metrics import Reading, rare_tokens, read

SENT_AS_TEXT, INVERTER, VERIFY, LABELS = "ids as ids", "inverter", "verify by forward", "gradients"
NOT_SENT = "not sent"


@dataclass(frozen=True)
class Line:
    """What one attack read of one client at its cut. reading: None where nothing of the kind is sent."""

    client: str
    cut: int | None
    of: str  # "text" or "labels"
    attack: str
    reading: Reading | None
    note: str = ""

    @property
    def verdict(self) -> str:
        """The verdict, in fixed words."""
        return self.reading.verdict if self.reading else NOT_SENT

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

    def score(self, guess: Sequence[Tensor], seed: int, *, labels: bool = False) -> Reading:
        """Score a guess of the first rows: (tokens,) ids each, or, with `labels`, of each token's successor.

        The first token of a row does not count: nothing comes before it that the model could guess it from.
        """
        truth, own, model = [], [], []
        for row, other, likely in zip(self.rows, guess, self.model, strict=False):
            wanted = row.labels[1:] >= 0 if labels else row.ids[1:] >= 0
            truth.append(row.ids[1:][wanted].tolist())
            own.append((other[:-1] if labels else other[1:])[wanted].tolist())
            model.append(likely[:-1][wanted].tolist())
        floors = {"the model's next token": model, "the most frequent token": unigrams(truth)}
        return read(truth, own, floors, self.rare, seed)


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
    model = [own.argmax(-1).cpu() for own in knowledge.next_tokens([row.ids for row in kept])]
    return TruthOf(kept, places, model, rare_tokens(own_rows))


def unigrams(truth: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the guess that every token is the most frequent one of these rows."""
    counts = Counter(token for row in truth for token in row)
    best = counts.most_common(1)[0][0] if counts else -1
    return [[best] * len(row) for row in truth]
