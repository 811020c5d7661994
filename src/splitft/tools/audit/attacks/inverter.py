"""A linear map from activations to token embeddings, made from public text in closed form.

The text goes through the base model's front and the job's own codec, so that the map knows both. (ours; ridge
regression, with the nearest embedding as the answer)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from splitft.tools.audit.attacks.knowledge import ServerKnowledge

PENALTY = 1e-2  # lambda of the ridge, for each token of public text
_ROWS = 512  # whose distances to the whole vocabulary are computed at a time


@dataclass(frozen=True)
class Inverter:
    """A ridge regression to unit embeddings. mean, spread: (hidden,); weight: (hidden + 1, hidden)."""

    mean: Tensor
    spread: Tensor
    weight: Tensor
    embeddings: Tensor  # (vocabulary, hidden), centred, of length one

    def candidates(self, rows: Tensor, count: int) -> Tensor:
        """Return the `count` likeliest ids of each of (tokens, hidden) activations, best first."""
        found, count = [], min(count, len(self.embeddings))
        for part in torch.split(with_one((rows - self.mean) / self.spread), _ROWS):
            guess = functional.normalize(part @ self.weight, dim=-1)
            near = guess @ self.embeddings.T
            best = near.argmax(-1, keepdim=True) if count == 1 else near.topk(count, dim=-1).indices
            found.append(best)
        return torch.cat(found) if found else torch.empty(0, count, dtype=torch.long)


@torch.no_grad()
def make_inverter(knowledge: ServerKnowledge, sent: Sequence[Tensor]) -> Inverter:
    """Return the inverter of a cut. sent: the public rows' activations as they arrive, (tokens, hidden) each.

    The first token of a row is left out: many models mark it with activations of another size.
    """
    rows = torch.cat([own[1:] for own in sent])
    ids = torch.cat([own[1:] for own in knowledge.public])
    units = knowledge.unit_embeddings
    mean, spread = rows.mean(0), rows.std(0) + 1e-6
    inputs = with_one((rows - mean) / spread)
    square = inputs.T @ inputs + PENALTY * len(inputs) * torch.eye(inputs.shape[1], device=inputs.device)
    return Inverter(mean, spread, torch.linalg.solve(square, inputs.T @ units[ids]), units)


def with_one(rows: Tensor) -> Tensor:
    """Return rows with a column of ones for the constant."""
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
