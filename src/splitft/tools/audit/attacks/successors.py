"""Activations of many candidates for one token, after the same prefix, in one row of the model.

The row holds the prefix once and every candidate at the position behind it; a mask lets each candidate see
the prefix and itself (tree attention; Miao et al., SpecInfer, 2024, section 4). A model that computes
anything else on such a row gets each candidate in a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from splitft.tools.audit.attacks.knowledge import PLACE, ServerKnowledge

_ROW_TOKENS = 8192  # of a batch, with padding
_TRIED, _PREFIX = 6, 9  # candidates and tokens of the rows that are compared
_SAME = 0.01  # squared difference of both ways, by the candidates' own variance


class Successors:
    """The front of a cut, for candidates of one token."""

    def __init__(self, knowledge: ServerKnowledge, cut: int) -> None:
        self._knowledge, self._cut = knowledge, cut
        self.together = self._equal()

    def states(self, prefixes: Sequence[Tensor], candidates: Sequence[Tensor]) -> list[Tensor]:
        """Return the (candidates, hidden) activations of each prefix's candidates, float32, on the CPU.

        Args:
            prefixes: (tokens,) ids each, at least one token.
            candidates: (candidates,) ids each, of the token behind the prefix.
        """
        if not self.together:
            return self._apart(prefixes, candidates)
        found: list[Tensor] = []
        longest = max((len(p) + len(c) for p, c in zip(prefixes, candidates, strict=True)), default=1)
        size = max(1, _ROW_TOKENS // longest)
        for first in range(0, len(prefixes), size):
            found += self._packed(prefixes[first : first + size], candidates[first : first + size])
        return found

    def _equal(self) -> bool:
        """Whether the model computes in one row what it computes in several, tried on public rows."""
        rows = sorted(self._knowledge.public, key=len, reverse=True)[:2]
        prefixes = [rows[0][:_PREFIX], rows[-1][: max(1, _PREFIX // 2)]]
        others = torch.cat(list(self._knowledge.public))[:: max(1, 1000 // _TRIED)]
        candidates = [others[:_TRIED], others[_TRIED : 2 * _TRIED - 1]]
        try:
            packed = self._packed(prefixes, candidates)
        except Exception:  # a model's own forward may raise anything on a mask that it does not take
            return False
        for one, other in zip(packed, self._apart(prefixes, candidates), strict=True):
            spread = (other - other.mean(0)).pow(2).sum(-1).mean()
            if one.shape != other.shape or not (one - other).pow(2).sum(-1).max() <= _SAME * spread:
                return False
        return True

    def _apart(self, prefixes: Sequence[Tensor], candidates: Sequence[Tensor]) -> list[Tensor]:
        rows = [
            torch.cat([prefix, one[None]])
            for prefix, own in zip(prefixes, candidates, strict=True)
            for one in own
        ]
        states = iter(self._knowledge.front(rows, self._cut))
        return [torch.stack([next(states)[-1] for _ in own]) for own in candidates]

    @torch.no_grad()
    def _packed(self, prefixes: Sequence[Tensor], candidates: Sequence[Tensor]) -> list[Tensor]:
        model, lengths = self._knowledge.model, [len(prefix) for prefix in prefixes]
        width = max(len(p) + len(c) for p, c in zip(prefixes, candidates, strict=True))
        ids = torch.zeros(len(prefixes), width, dtype=torch.long)
        positions, mask = (
            torch.zeros_like(ids),
            torch.eye(width, dtype=torch.bool).repeat(len(prefixes), 1, 1),
        )
        for row, (prefix, own) in enumerate(zip(prefixes, candidates, strict=True)):
            start, stop = len(prefix), len(prefix) + len(own)
            ids[row, :start], ids[row, start:stop] = prefix, own
            positions[row, :start], positions[row, start:] = torch.arange(start), start
            mask[row, :start, :start] = torch.ones(start, start, dtype=torch.bool).tril()
            mask[row, start:stop, :start] = True
        model.bind(self._knowledge.adapter)
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "position_ids": positions,
            "attention_mask": mask[:, None],
        }
        hidden = model.run(
            0, self._cut, PLACE, **{name: one.to(model.device) for name, one in inputs.items()}
        )
        return [
            own[start : start + len(tried)].flatten(1).float().cpu()
            for own, start, tried in zip(hidden, lengths, candidates, strict=True)
        ]
