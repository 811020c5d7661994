"""A reading of a client's first rows by a linear inverter: what is right of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from splitft.tools.audit.attacks.inverter import Inverter, make_inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.capture import MOST_TOKENS
from splitft.tools.audit.metrics import rare_tokens

TOKENS = 256  # of each client, in its first rows


@dataclass(frozen=True)
class FirstRows:
    """A client's first rows of two tokens or more, TOKENS tokens in all. The first of each does not count.

    ids: (tokens,) each. seldom: rare tokens of all its rows. frequent: the most frequent one.
    """

    ids: list[Tensor]
    seldom: set[int]
    frequent: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> FirstRows:
        """Return the first ones of a client's rows of ids."""
        ids, count = list[Tensor](), 0
        for row in rows:
            if len(row) > 1 and count < TOKENS:
                ids.append(torch.tensor(row[: min(MOST_TOKENS, TOKENS - count)]))
                count += len(ids[-1])
        counts = Counter(token for row in rows for token in row)
        return cls(ids, rare_tokens(rows), counts.most_common(1)[0][0] if counts else -1)

    @cached_property
    def truth(self) -> Tensor:
        """(tokens,) of all rows."""
        return torch.cat([row[1:] for row in self.ids]) if self.ids else torch.zeros(0, dtype=torch.long)

    def right(self, guess: Sequence[Tensor]) -> Mapping[str, float]:
        """Return the shares of tokens, and of rare ones, that a guess of the rows names right.

        guess: (tokens - 1,) of each row, without its first token.
        """
        right = torch.cat(list(guess)) == self.truth
        rare = torch.isin(self.truth, torch.tensor(sorted(self.seldom)))
        return {"tokens": _mean(right), "rare": _mean(right[rare]), "n": float(len(right))}

    def by_frequency(self) -> float:
        """Return the share that the most frequent token is of all tokens."""
        return _mean(self.truth == self.frequent)


def read_through(
    knowledge: ServerKnowledge, inverter: Inverter, rows: FirstRows, cut: int
) -> Mapping[str, float]:
    """Return `FirstRows.right` of what an inverter names, of activations at a cut through the job's codec."""
    sent = knowledge.through_codec(knowledge.front(rows.ids, cut))
    return rows.right([inverter.candidates(own[1:], 1)[:, 0] for own in sent])


def inverter_at(knowledge: ServerKnowledge, cut: int) -> Inverter:
    """Return the inverter of a cut, made of the public rows through the front and the job's codec."""
    return make_inverter(knowledge, knowledge.through_codec(knowledge.front(knowledge.public, cut)))


def _mean(flags: Tensor) -> float:
    return float(flags.float().mean()) if len(flags) else 0.0
