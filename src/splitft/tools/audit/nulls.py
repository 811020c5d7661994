"""Checks of the meter in every audit: nothing where there is nothing, and a leak that was put there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from splitft.tools.audit.attacks.inverter import Inverter
from splitft.tools.audit.haystacks import of_message
from splitft.tools.audit.lines import TruthOf
from splitft.tools.audit.search import RowSearch
from splitft.wire.messages import Activations

WITHIN = 0.05


@dataclass(frozen=True)
class Null:
    """One check: what was read, the bound that it must keep within WITHIN, and whether it does.

    bound: "at most" or "at least".
    """

    name: str
    read: float
    bound: str
    expected: float
    ok: bool

    def to_json(self) -> dict[str, Any]:
        """Return the check as JSON values."""
        return asdict(self)


def check_meter(
    truth: TruthOf,
    guess: Sequence[Tensor],
    rows: Sequence[Tensor],
    inverter: Inverter,
    seed: int,
    search: RowSearch,
) -> list[Null]:
    """Return the checks, with one client's rows.

    guess: of the inverter. rows: (tokens, hidden) activations of the same samples. search: of these rows.
    """
    return [
        _nothing("the guess beside other rows", truth, other_rows(guess), seed),
        _nothing(
            "noise with the activations' mean and deviation",
            truth,
            [inverter.candidates(own, 1)[:, 0] for own in same_moments(rows, seed)],
            seed,
        ),
        planted_ids(truth, seed, search),
    ]


def _nothing(name: str, truth: TruthOf, guess: Sequence[Tensor], seed: int) -> Null:
    found = truth.score(guess, seed, model=False).tokens
    return Null(name, found.value, "at most", found.floor, found.excess <= WITHIN)


def other_rows(guess: Sequence[Tensor]) -> list[Tensor]:
    """Return for each row the guess of the next one, cut or repeated to its length."""
    turned = [*guess[1:], *guess[:1]]
    return [
        other.repeat(-(-len(own) // len(other)))[: len(own)] for own, other in zip(guess, turned, strict=True)
    ]


def same_moments(rows: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return Gaussian noise with the mean and the deviation of each dimension, of the rows' lengths."""
    together = torch.cat([own[1:] for own in rows])
    mean, spread = together.mean(0), together.std(0)
    generator = torch.Generator().manual_seed(seed)
    return [mean + spread * torch.randn(own.shape, generator=generator).to(own.device) for own in rows]


def planted_ids(truth: TruthOf, seed: int, search: RowSearch) -> Null:
    """Put the ids of every second row into a field of floats, and look whether the ids are found there."""
    ids = [row.ids for row in truth.rows]
    half = ids[::2]
    wanted = [own if place % 2 == 0 else torch.full_like(own, -1) for place, own in enumerate(ids)]
    leaked = torch.cat(half).float()
    message = Activations(1, 0, 0, True, tuple(map(len, half)), torch.empty(0, 1), grad_norms=leaked)
    (hay,) = (hay for hay in of_message(message) if hay.name == "grad_norms")
    found = search.as_ids(hay.numbers)
    guess = [found.get(place, torch.full_like(own, -1)) for place, own in enumerate(ids)]
    read = truth.score(guess, seed).tokens.value
    expected = truth.score(wanted, seed).tokens.value
    return Null(
        "ids of every second row put into grad_norms", read, "at least", expected, read >= expected - WITHIN
    )
