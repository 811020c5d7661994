"""Attacks of a server that knows the defence: the text, the labels, and which tokens are answers.

The strongest server knows the averaged adapters of front and tail, as one that averages does, the deviations
of all noise, the factor of each clipped row, and that a third of a row's tokens, one after another around its
end, are answers. It lacks what clients have trained since the last average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from defencelib.training import Seen, Trained
from splitft.common.seeds import torch_generator
from splitft.model.head import plain_linear
from splitft.running.prepare import Assembly
from splitft.tools.audit.attacks.inverter import Inverter, make_inverter
from splitft.tools.audit.attacks.knowledge import ServerKnowledge
from splitft.tools.audit.attacks.labels import PublicTail
from splitft.tools.audit.attacks.verify import Noise, repair
from splitft.tools.audit.lines import unigrams
from splitft.tools.audit.metrics import auc, rare_tokens, read

VERIFIED, SOLVED = 4, 2  # rows
ITERATIONS = 40  # of conjugate gradients
SHARE = 3  # one of so many tokens of a row is an answer
_FLOOR = 1e-4  # of the variance of activations, which stands for their precision


def answer_places(length: int, draw: torch.Generator) -> Tensor:
    """Return which tokens of a row have an answer's token next, (length - 1,): a third, around the end.

    Each place is as likely as any other, so that guessing has an area of 0.5.
    """
    count = length - 1
    first = int(torch.randint(count, (), generator=draw))
    return span(count, first)


def span(count: int, first: int) -> Tensor:
    """Return the places of a row's answers that begin at one of `count` places, (count,) flags."""
    return (torch.arange(count) - first) % count < max(1, count // SHARE)


def attack(start: Assembly, trained: Trained, public: Sequence[Tensor], cut: int, *, returned: bool) -> Any:
    """Return what every attack reads of a training's last round, as JSON values.

    returned: whether gradients are sent at all.
    """
    seed, seen = start.job.seed, trained.seen
    plain = ServerKnowledge(start.split_model, start.job, start.adapter, public)
    known = ServerKnowledge(start.split_model, start.job, trained.handed_out, public)
    rare = rare_tokens([row.tolist() for client in start.clients for row in client.train.input_ids])
    truth = _Truth(plain, seen, rare, seed)
    # The text: with the public weights, then with all that the server knows.
    fronts = plain.front(public, cut)
    by_public = _named(make_inverter(plain, fronts), seen)
    inverter, noise = _tools(known, cut, trained.spread, seed)
    by_known = _named(inverter, seen)
    came = [row.at_cut for row in seen[:VERIFIED]]
    verified = repair(known, cut, came, inverter, noise, prior=0.0 if trained.spread is None else 1.0)
    text = [*verified, *by_known[len(verified) :]]
    found: dict[str, Any] = {
        "text": {
            "public inverter": truth.score(by_public),
            "inverter": truth.score(by_known),
            "verify by forward": truth.score(verified),
        }
    }
    if not returned:
        return found
    # Labels and places, with the public tail and with the averaged one.
    head = plain_linear(start.model.get_output_embeddings())
    assert head is not None
    table = head.weight.detach().float()
    tails = {"public tail": PublicTail(plain, start.job.num_tail_blocks)}
    tails["averaged tail"] = PublicTail(known, start.job.num_tail_blocks)
    found["labels"] = {"averaged tail": truth.labels(tails["averaged tail"])}
    flags = [row.answers.tolist() for row in seen]
    norms = [row.gradient.norm(dim=-1)[:-1].tolist() for row in seen]
    found["places"] = {"norms": _area(norms, flags, seed)}
    for name, tail in tails.items():
        read_by = [where(tail, table, row, ids) for row, ids in zip(seen, text, strict=True)]
        right = [
            bool((span(len(likely), first) == row.answers).all())
            for (likely, first), row in zip(read_by, seen, strict=True)
        ]
        found["places"][name] = {
            **_area([scores.tolist() for scores, _ in read_by], flags, seed),
            "exact": sum(right) / len(right),
        }
    return found


def where(tail: PublicTail, table: Tensor, row: Seen, ids: Tensor) -> tuple[Tensor, int]:
    """Return how likely each token is to have an answer's token next, (tokens - 1,), and the likeliest begin.

    The gradient is linear in the answers: each token's own part of it is computed with the text that was
    read, and each place at which answers can begin is fitted by least squares. table: of the head.
    """
    parts = own_gradients(tail, table, row, ids)
    count = len(parts)
    spans = torch.stack([span(count, first) for first in range(count)]).float()
    expected = (spans @ parts.flatten(1)).double()
    wanted = row.gradient.flatten().double()
    factors = (expected @ wanted / expected.pow(2).sum(1).clamp_min(1e-30)).clamp_min(0.0)
    far = (factors[:, None] * expected - wanted).pow(2).sum(1)
    variance = max(row.noise**2, float(far.min()) / wanted.numel())
    likely = (-far / (2 * variance + 1e-30)).softmax(0)
    return (likely[:, None] * spans).sum(0), int(far.argmin())


def own_gradients(tail: PublicTail, table: Tensor, row: Seen, ids: Tensor) -> Tensor:
    """Return the gradient of each next token's loss where the tail begins: (tokens - 1, tokens, hidden).

    ids: (tokens,) as they were read.
    """
    hidden = row.at_tail[None].clone().requires_grad_()
    at_head = tail(hidden, torch.ones(1, len(ids), dtype=torch.bool))[0]
    states = at_head.detach()[:-1]
    slopes = (states @ table.T).softmax(-1) @ table - table[ids[1:]]
    found = []
    for place, slope in enumerate(slopes):
        (own,) = torch.autograd.grad(at_head[place], hidden, slope / row.tokens, retain_graph=True)
        found.append(own[0])
    return torch.stack(found)


def _tools(known: ServerKnowledge, cut: int, spread: Tensor | None, seed: int) -> tuple[Inverter, Noise]:
    """Return an inverter through the averaged front and its noise, and the distances of what comes."""
    fronts = known.front(known.public, cut)
    together = torch.cat([row[1:] for row in fronts])
    variance = _FLOOR * together.var(0) + 1e-12
    sent = fronts
    if spread is not None:
        draw = torch_generator(seed, "attack")
        sent = [row + spread * torch.randn(row.shape, generator=draw) for row in fronts]
        variance = variance + spread.pow(2)
    noise = Noise(1 / variance / len(variance), 2.0 if spread is None else 0.0)  # with noise all are tried
    return make_inverter(known, sent), noise


def _named(inverter: Inverter, seen: Sequence[Seen]) -> list[Tensor]:
    return [inverter.candidates(row.at_cut, 1)[:, 0] for row in seen]


def _area(scores: list[list[float]], flags: list[list[bool]], seed: int) -> dict[str, float]:
    value, low, high = auc(scores, flags, seed)
    return {"auc": value, "low": low, "high": high}


class _Truth:
    """The true rows, beside what guessing reads of them."""

    def __init__(self, plain: ServerKnowledge, seen: Sequence[Seen], rare: set[int], seed: int) -> None:
        self._seen, self._rare, self._seed = seen, rare, seed
        self._likely = plain.likeliest_next([row.ids for row in seen])

    def score(self, guess: Sequence[Tensor]) -> Mapping[str, Any]:
        """Score the ids of the first rows; the first token of each does not count."""
        chosen = [torch.ones(len(row.ids) - 1, dtype=torch.bool) for row in self._seen]
        return self._read([own[1:] for own in guess], chosen)

    def labels(self, tail: PublicTail) -> Mapping[str, Any]:
        """Score the labels of the answers of some rows, solved with a tail."""
        few = self._seen[:SOLVED]
        found = tail.labels([(row.at_tail, row.gradient, row.tokens) for row in few], ITERATIONS)
        return self._read([own[:-1] for own in found], [row.answers for row in few])

    def _read(self, guess: Sequence[Tensor], chosen: Sequence[Tensor]) -> Mapping[str, Any]:
        pairs = list(zip(self._seen, guess, self._likely, chosen, strict=False))
        truth = [row.ids[1:][own].tolist() for row, _, _, own in pairs]
        read_ = [ids[own].tolist() for _, ids, _, own in pairs]
        floors = {
            "the model's next token": [likely[:-1][own].tolist() for _, _, likely, own in pairs],
            "the most frequent token": unigrams(truth),
        }
        tokens = read(truth, read_, floors, self._rare, self._seed).to_json()["tokens"]
        return {key: tokens[key] for key in ("value", "floor", "low", "high", "count")}
