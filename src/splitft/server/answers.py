"""The answers of trunks to what clients send: gradients, the trunk's output, or sums over held-out rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from splitft.common.state import State
from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import Adapter
from splitft.lora.ranks import HeldBlocks, held_blocks
from splitft.model.split_model import SplitModel, StepId
from splitft.server.batches import plan_batches
from splitft.server.seam import ClientError, TrunkLoad, on_behalf_of, trunk_key
from splitft.server.step import (
    AtCut,
    TrunkStep,
    evaluate,
    evaluate_whole,
    run_to_tail,
    step_from_tail,
    trunk_step,
)
from splitft.server.trunks import Trunk
from splitft.wire.messages import (
    Activations,
    Gradients,
    HeldOut,
    LocalLoss,
    Message,
    Metrics,
    TailGradients,
    TrunkOutput,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A client between two hand-outs. micro_batches: parts of each of its batches."""

    held: HeldBlocks
    micro_batches: int


class Sums:
    """Sums over what clients sent."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()  # token rows in training
        self.losses: dict[str, tuple[float, int]] = {}  # (sum of token losses, tokens) in training
        self.metrics: dict[str, Metrics] = {}  # of held-out rows
        self.first: dict[str, Metrics] = {}  # of each client's first evaluation

    def add_loss(self, client: str, loss: float, loss_tokens: int, micro_step: int) -> None:
        """Count a micro-batch's part of a step's loss; loss_tokens are those of the whole step."""
        total, tokens = self.losses.get(client, (0.0, 0))
        self.losses[client] = total + loss * loss_tokens, tokens + (loss_tokens if micro_step == 0 else 0)

    def add_metrics(self, client: str, metrics: Metrics) -> None:
        """Add the sums over a batch of held-out rows."""
        before = self.metrics.get(client)
        self.metrics[client] = metrics if before is None else joined([before, metrics])

    def take_metrics(self) -> dict[str, Metrics]:
        """Return the sums over each client's held-out rows since the last call; keep a client's first."""
        metrics = taken(self.metrics)
        self.first = metrics | self.first
        return metrics

    def state(self) -> State:
        """Return what outlasts a round: the first evaluation of each client."""
        return {client: vars(metrics) for client, metrics in self.first.items()}

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`."""
        self.first = {client: Metrics(**values) for client, values in state.items()}

    def forget(self, client: str) -> None:
        """Drop all sums of a client."""
        for kept in (self.rows, self.losses, self.metrics):
            kept.pop(client, None)


def joined(parts: Sequence[Metrics]) -> Metrics:
    """Return the sums over all parts' rows, and these rows one after another."""
    names = ("nll", "correct", "tokens", "paper_correct", "paper_tokens")
    totals = {name: sum(getattr(part, name) for part in parts) for name in names}
    rows: dict[str, Any] = {}
    for name in ("row_nll", "row_correct", "row_tokens"):
        each = [getattr(part, name) for part in parts]
        rows[name] = None if any(row is None for row in each) else torch.cat(each)
    sums = [part.own_sums for part in parts if part.own_sums is not None]
    return Metrics(parts[0].round, **totals, **rows, own_sums=torch.stack(sums).sum(0) if sums else None)


def without_rows(metrics: Metrics) -> Metrics:
    """Return the sums alone, as clients get them."""
    return replace(metrics, row_nll=None, row_correct=None, row_tokens=None, own_sums=None)


def taken(kept: dict[str, T]) -> dict[str, T]:
    """Return what was kept, which is empty from then on."""
    found = dict(kept)
    kept.clear()
    return found


@dataclass(eq=False)
class Answers:
    """Computes one message of each client after another, or several together."""

    model: SplitModel
    settings: TrainingSettings
    trunks: Mapping[str, Trunk]  # that are trained, by key

    def __post_init__(self) -> None:
        self.served: dict[str, Served] = {}
        self.sums = Sums()
        self._adapter: Adapter = {}

    def start(self, adapter: Adapter, load: TrunkLoad) -> None:
        """Serve a trunk's clients from now on. adapter: the global one of all trunks' blocks, to evaluate."""
        self._adapter = adapter
        for client, cut, parts in zip(load.clients, load.cuts, load.micro_batches, strict=True):
            held = held_blocks(self.settings, self.model.num_blocks, cut)
            self.served[client] = Served(held, parts)

    def to(
        self, messages: Mapping[str, Message], shares: Mapping[str, float], most_tokens: int
    ) -> dict[str, Message]:
        """Return the answers to messages, in their order.

        Args:
            shares: Weight of each training client in its trunk's gradient.
            most_tokens: Most tokens of several clients that are computed at once; 0: one client at a time.

        Raises:
            ClientError: A message could not be computed; the answers to the others are lost with it.
        """
        replies: dict[str, Message] = {}
        if most_tokens:
            train = {c: m for c, m in messages.items() if isinstance(m, Activations) and m.train}
            for names in plan_batches({c: m.lengths for c, m in train.items()}, most_tokens):
                if len(names) > 1:
                    replies |= self._together([self._at_cut(name, train[name], shares) for name in names])
        for client in [client for client in messages if client not in replies]:
            with on_behalf_of(client):
                replies |= self._one(client, messages[client], shares)
        return {client: replies[client] for client in [*messages, *replies] if client in replies}

    def _trunk(self, client: str) -> Trunk:
        return self.trunks[trunk_key(client, self.settings)]

    def _one(self, client: str, message: Message, shares: Mapping[str, float]) -> dict[str, Message]:
        """Return the answer to a message; with a shared trunk a tail gradient may complete several."""
        match message:
            case Activations() if self.settings.labels == "client":
                return {client: self._to_tail(self._at_cut(client, message, shares))}
            case Activations(train=True):
                return self._train([self._at_cut(client, message, shares)])
            case Activations():
                part = self._at_cut(client, message, shares)
                metrics = evaluate(self.model, part, padding_free=self.settings.without_padding)
                self.sums.add_metrics(client, metrics)
                return {client: without_rows(metrics)}
            case HeldOut():
                padding_free = self.settings.without_padding
                metrics = evaluate_whole(
                    self.model, client, message, self._adapter, padding_free=padding_free
                )
                self.sums.add_metrics(client, metrics)
                return {client: without_rows(metrics)}
            case TailGradients():
                ready = self._trunk(client).tails.take(client, message)
                back = []
                for waiting, gradient in ready:
                    with on_behalf_of(waiting.part.place.client):
                        back.append(([waiting.part], step_from_tail(self.model, waiting, gradient)))
                return {c: reply for one in back for c, reply in self._take_in(*one).items()}
            case Metrics():
                self.sums.add_metrics(client, message)
            case LocalLoss():
                self.sums.rows[client] += sum(message.lengths)
                self.sums.add_loss(client, message.loss, message.loss_tokens, message.micro_step)
            case _:
                raise ValueError(f"a server cannot take {type(message).__name__} from {client}")
        return {}

    def _at_cut(self, client: str, message: Activations, shares: Mapping[str, float]) -> AtCut:
        """Return a micro-batch with its adapters: the client's trunk, or to evaluate the global ones."""
        held = self.served[client].held
        place = StepId(client, message.round, message.step, message.micro_step, message.train)
        if message.train:
            return AtCut(place, held, message, self._trunk(client).trained.blocks, shares[client])
        return AtCut(place, held, message, {b: a for b, a in self._adapter.items() if b in held.trunk})

    def _together(self, parts: list[AtCut]) -> dict[str, Message]:
        """Train several clients at once; where that fails, each alone shows which one made it fail."""
        try:
            with on_behalf_of(*(part.place.client for part in parts)):
                return self._train(parts)
        except ClientError:
            for part in parts:
                with on_behalf_of(part.place.client):
                    self._train([part])
            raise

    def _train(self, parts: list[AtCut]) -> dict[str, Message]:
        parts.sort(key=lambda part: part.held.cut)
        settings = self.settings
        step = trunk_step(
            self.model, parts, padding_free=settings.without_padding, train_front=settings.train_front
        )
        return self._take_in(parts, step)

    def _to_tail(self, part: AtCut) -> TrunkOutput:
        settings, place = self.settings, part.place
        with torch.set_grad_enabled(place.train):
            at_tail = run_to_tail(
                self.model, part, padding_free=settings.without_padding, train_front=settings.train_front
            )
        if place.train:
            self._trunk(place.client).tails.wait(at_tail)
        rows = at_tail.rows.layout.rows(at_tail.leaving.detach())
        return TrunkOutput(place.round, place.step, place.micro_step, place.train, rows)

    def _take_in(self, parts: Sequence[AtCut], step: TrunkStep) -> dict[str, Message]:
        """Add up gradients and losses; return what goes down to the clients."""
        for tensor, gradient in step.gradients:
            if gradient is not None:
                tensor.grad = gradient if tensor.grad is None else tensor.grad.add_(gradient)
        replies: dict[str, Message] = {}
        each = zip(parts, step.losses, step.loss_tokens, step.at_cut, strict=True)
        for part, loss, tokens, rows in each:
            place = part.place
            self.sums.add_loss(place.client, loss, tokens, place.micro_step)
            replies[place.client] = Gradients(place.round, place.step, place.micro_step, loss, rows)
        return replies
