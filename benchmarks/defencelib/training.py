"""A split training of several clients with a defence, and what its server gets in the last round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from defencelib.measures import START, Defence, bound_of, likeness, noisy_rows, row_norms, through_bottleneck
from splitft.client.batches import MicroBatch, StepBatches
from splitft.common.seeds import torch_generator
from splitft.data import ClientData
from splitft.lora.blocks import Adapter
from splitft.lora.optimizer import TrainedAdapter, total_norm
from splitft.model.head import ChunkedHead
from splitft.model.split_model import StepId
from splitft.running.prepare import Assembly

CPU = torch.device("cpu")
RATE = 0.05  # of the logarithm of the noise at the cut
_CHUNK = 512  # tokens that the head takes at a time


@dataclass(frozen=True)
class Seen:
    """One row as the server got it in training, and the truth of it.

    Attributes:
        ids: (tokens,), of which the server is given none.
        answers: (tokens - 1,) whether the next token carries loss.
        at_cut, at_tail: (tokens, hidden) of the client's front, and of the server's own trunk.
        gradient: (tokens, hidden) returned by the tail, freed of its row's factor: the attacker is told it.
        noise: Deviation of each of its values.
        tokens: That the loss of the step was divided by.
    """

    ids: Tensor
    answers: Tensor
    at_cut: Tensor
    at_tail: Tensor
    gradient: Tensor
    noise: float
    tokens: int


@dataclass
class Trained:
    """What a training leaves: all that its server knows, and the price.

    Attributes:
        handed_out: The averaged adapter that the last round began with.
        spread: The averaged noise at the cut of the same moment, (hidden,); None without.
        nats: Most that a token's activations tell, in the mean of the last round; None without noise.
    """

    handed_out: Adapter
    spread: Tensor | None
    seen: list[Seen]
    perplexity: float
    nats: float | None


@dataclass(eq=False)
class _Party:
    """One client: its batches, its adapter and that of its trunk, and the noise at its cut."""

    batches: StepBatches
    trained: TrainedAdapter
    spread: Tensor | None  # the logarithm
    optimizer: torch.optim.Optimizer | None = None
    nats: list[float] = field(default_factory=list)

    def hold(self, adapter: Adapter, spread: Tensor | None) -> None:
        """Take what is handed out."""
        self.trained.load(adapter)
        if spread is not None and self.spread is not None:
            with torch.no_grad():
                self.spread.copy_(spread)


class DefendedTraining:
    """A training of all clients of a job with labels at home, with one defence.

    deviations: (hidden,) of public text's activations at the cut.
    """

    def __init__(self, start: Assembly, defence: Defence, cut: int, deviations: Tensor) -> None:
        self.start, self.defence, self.cut = start, defence, cut
        self.model, self.blocks = start.split_model, start.num_blocks
        self.tail = self.blocks - start.job.num_tail_blocks
        self._head = ChunkedHead(start.model, "plain", _CHUNK)
        self._draw = torch_generator(start.job.seed, "defence")
        self._bound: float | None = None
        self.parties = []
        for client in start.clients:
            batches = StepBatches(start.job, client.name, client, start.pad_token_id, CPU)
            log_spread = None
            if defence.information is not None:
                log_spread = torch.log(START * deviations).requires_grad_()
            party = _Party(batches, TrainedAdapter(start.job), log_spread)
            party.trained.load(start.adapter)
            if log_spread is not None:
                party.optimizer = torch.optim.Adam([log_spread], lr=RATE)
            self.parties.append(party)

    def run(self, rounds: int, steps: int) -> Trained:
        """Warm up, train, and evaluate. Returns what the server has."""
        for party in self.parties:
            for number in range(self.defence.warmup):
                self._warm_up(party, number)
        seen: list[Seen] = []
        handed_out, spread = self._average()
        for round_ in range(1, rounds + 1):
            handed_out, spread = self._average()
            seen = []
            for party in self.parties:
                party.hold(handed_out, spread)
                party.nats = []
                for number in range(steps):
                    seen += self._step(party, round_, number)
        nats = [one for party in self.parties for one in party.nats]
        last, last_spread = self._average()
        return Trained(
            handed_out,
            None if spread is None else spread.exp(),
            seen,
            self._perplexity(last, last_spread),
            sum(nats) / len(nats) if nats else None,
        )

    def _average(self) -> tuple[Adapter, Tensor | None]:
        values = [party.trained.values() for party in self.parties]
        mean = {
            block: {name: torch.stack([own[block][name] for own in values]).mean(0) for name in tensors}
            for block, tensors in values[0].items()
        }
        spreads = [party.spread.detach() for party in self.parties if party.spread is not None]
        return mean, torch.stack(spreads).mean(0) if spreads else None

    def _front(self, party: _Party, batch: MicroBatch, place: StepId) -> tuple[Tensor, Tensor | None]:
        """Return the activations that leave a client, with their graph, and their nats."""
        hidden: Tensor = self.model.run(0, self.cut, place, **batch.inputs)
        if party.spread is None:
            return hidden, None
        valid = batch.batch.attention_mask.bool()
        valid[:, 0] = False  # many models mark the first token with activations of another size
        return through_bottleneck(hidden, party.spread.exp(), valid, self._draw)

    def _tail(self, entering: Tensor, batch: MicroBatch, place: StepId) -> Tensor:
        return self._head.hidden(
            lambda: self.model.run(self.tail, self.blocks, place, hidden=entering, **batch.inputs)
        )

    def _from_tail(self, party: _Party, at_tail: Tensor, batch: MicroBatch, place: StepId) -> Tensor:
        """Go through the tail and back; return the true gradient where it begins."""
        entering = at_tail.detach().requires_grad_()
        self.model.bind(party.trained.blocks)
        at_head = self._tail(entering, batch, place)
        loss = self._head.loss(at_head, batch.labels)
        (gradient,) = torch.autograd.grad(loss, entering, retain_graph=True)
        if self.defence.push:
            with torch.no_grad():
                self.model.bind(self.start.adapter)
                public = self._tail(entering, batch, place)
            self.model.bind(party.trained.blocks)
            valid = batch.batch.attention_mask.bool()
            loss = loss + self.defence.push * likeness(at_head, public, valid)
        own = [p for block in range(self.tail, self.blocks) for p in party.trained.parameters_of(block)]
        for parameter, value in zip(own, torch.autograd.grad(loss, own), strict=True):
            parameter.grad = value
        return gradient

    def _warm_up(self, party: _Party, number: int) -> None:
        """Take a local step of front and tail, with no trunk between them."""
        batch = party.batches.micro_batch(0, 1)
        place = StepId(party.batches.name, 0, number, 0, train=True)
        self.model.bind(party.trained.blocks)
        leaving, nats = self._front(party, batch, place)
        gradient = self._from_tail(party, leaving, batch, place)
        self._back(party, leaving, gradient, nats)
        self._update(party)

    def _step(self, party: _Party, round_: int, number: int) -> Iterator[Seen]:
        """Take a step of the whole split model; yield its rows as the server got them."""
        batch = party.batches.micro_batch(0, 1)
        place = StepId(party.batches.name, round_, number, 0, train=True)
        valid = batch.batch.attention_mask.bool()
        self.model.bind(party.trained.blocks)
        leaving, nats = self._front(party, batch, place)
        at_tail: Tensor = self.model.run(self.cut, self.tail, place, hidden=leaving, **batch.inputs)
        gradient = self._from_tail(party, at_tail, batch, place)
        sent, factors, noise = self._sent(gradient, valid)
        self.model.bind(party.trained.blocks)
        if self.defence.returned:
            self._back(party, at_tail, sent, nats)
        self._update(party)
        if nats is not None:
            party.nats.append(nats.item())
        for row, length in enumerate(batch.lengths):
            factor = float(factors[row])
            yield Seen(
                batch.batch.input_ids[row, :length],
                batch.labels[row, 1:length] >= 0,
                leaving[row, :length].detach().float(),
                at_tail[row, :length].detach().float(),
                sent[row, :length].float() / factor,
                noise / factor,
                batch.own_loss_tokens,
            )

    def _sent(self, gradient: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return the gradient that goes up, each row's factor, and the deviation of the noise."""
        ones = torch.ones(len(gradient))
        if self.defence.noise is None:
            return gradient, ones, 0.0
        if self._bound is None:
            self._bound = bound_of(row_norms(gradient).tolist())
        sent, factors = noisy_rows(gradient, valid, self._bound, self.defence.noise, self._draw)
        return sent, factors, self.defence.noise * self._bound

    def _back(self, party: _Party, leaving: Tensor, gradient: Tensor, nats: Tensor | None) -> None:
        """Go back from the tail; what activations tell has its price."""
        if nats is None or self.defence.information is None:
            leaving.backward(gradient)  # type: ignore[no-untyped-call]
            return
        torch.autograd.backward([leaving, self.defence.information * nats], [gradient, torch.ones(())])

    def _update(self, party: _Party) -> None:
        settings = self.start.job
        norms = party.trained.gradient_norms()
        party.trained.step((settings.learning_rate,) * 2, total_norm([norms]))
        if party.optimizer is not None:
            party.optimizer.step()
            party.optimizer.zero_grad()

    @torch.no_grad()
    def _perplexity(self, adapter: Mapping[int, Mapping[str, Tensor]], spread: Tensor | None) -> float:
        """Return the perplexity of all clients' held-out rows, with the defence as it is in training."""
        self.model.bind(adapter)
        loss, count = 0.0, 0
        for client in self.start.clients:
            held_out = ClientData(client.name, client.eval, client.eval)
            batches = StepBatches(self.start.job, client.name, held_out, self.start.pad_token_id, CPU)
            party = _Party(batches, self.parties[0].trained, spread)
            for rows in np.array_split(np.arange(len(client.eval)), max(1, len(client.eval) // 8)):
                batch = batches.of(rows)
                place = StepId(client.name, 0, 0, 0, train=False)
                hidden, _ = self._front(party, batch, place)
                hidden = self.model.run(self.cut, self.tail, place, hidden=hidden, **batch.inputs)
                tokens = batch.own_loss_tokens
                at_head = self._tail(hidden, batch, place)
                loss += float(self._head.loss(at_head, batch.labels)) * tokens
                count += tokens
        return float(torch.tensor(loss / count).exp())
