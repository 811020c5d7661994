"""The server: runs the trunk for every client on one frozen base, and has adapters averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from splitft.adapters import Adapter, job_ranks, rank_of, resize, unflatten
from splitft.aggregate import Mean
from splitft.aggregator import Aggregator, Contribution
from splitft.job import Job
from splitft.lowrank import Basis
from splitft.messages import (
    Activations,
    AdapterDown,
    AdapterUp,
    Gradients,
    LocalLoss,
    Message,
    Metrics,
    OptimizerState,
    TailGradients,
    TrunkOutput,
)
from splitft.moments import (
    Moments,
    mean_moments,
    pack_blocks,
    rebase,
    resize_moments,
    trained_specs,
    unpack_blocks,
)
from splitft.optim import global_step
from splitft.parts import Place, SplitModel, loss_token_count, mask_of, to_batch, to_rows
from splitft.trunk import Trunk

SHARED = ""  # key of the one trunk that all clients train with `server_adapter: shared`


@dataclass
class _Session:
    """What the server knows of one client."""

    cut: int = 0
    rows: int = 0  # token rows seen in this round: the client's weight in the average
    loss_sum: float = 0.0
    loss_tokens: int = 0
    share: float = 1.0  # of the trunk's gradient in the batch under way
    entering: Tensor | None = None  # (batch, seq, hidden) at the cut
    leaving: Tensor | None = None  # (batch, seq, hidden) at the tail, with its graph
    mask: Tensor | None = None
    returning: dict[int, list[Basis]] = field(default_factory=dict)  # blocks that leave the client

    def add_loss(self, loss: float, loss_tokens: int, micro_step: int) -> None:
        """Count a micro-batch's part of a step's loss; loss_tokens are those of the whole step."""
        self.loss_sum += loss * loss_tokens
        self.loss_tokens += loss_tokens if micro_step == 0 else 0


class Server:
    """The server of a run. A client weighs as much as the rows that the server saw, not what it was told.

    Raises ValueError where a message does not fit the session.
    """

    def __init__(self, model: SplitModel, job: Job, adapter: Adapter, mean: Mean | None = None) -> None:
        self.model = model
        self.job = job
        self.shared = job.server_adapter == "shared"
        self.aggregator = Aggregator(adapter, job, model.slots.layout, mean)
        self.metrics: dict[str, Metrics] = {}
        self._sessions: dict[str, _Session] = defaultdict(_Session)
        self._trunks: dict[str, Trunk] = {}
        self._contributions: dict[int, dict[str, Contribution]] = defaultdict(dict)  # block, holder

    @property
    def adapter(self) -> Adapter:
        """The global adapter of all blocks."""
        return self.aggregator.adapter

    @property
    def tail_start(self) -> int:
        return self.model.num_blocks - self.job.tail_blocks

    def hand_out(
        self, round_: int, cuts: Mapping[str, int], *, evaluate: bool = False
    ) -> dict[str, AdapterDown]:
        """Set the clients' cuts and return what they lack; the trunks start from the same adapter.

        To train, a client gets its blocks at its effective ranks; to evaluate, the global adapter as it is.
        The optimizer state of a block moves with it; for blocks that leave a client see `take_moments`.
        """
        before = {client: self._sessions[client].cut or cut for client, cut in cuts.items()}
        for client, cut in cuts.items():
            self._sessions[client].cut = cut
            if self._key(client) not in self._trunks:
                self._trunks[self._key(client)] = Trunk(self.job, self._key(client))
        if (
            round_ or not self.job.adapter_name_or_path
        ):  # an adapter to continue from is first evaluated as is
            self.aggregator.fit(self._wanted_ranks())
        moved: dict[str, dict[int, Moments]] = {}
        for client, cut in cuts.items():
            leaving = range(cut, before[client])
            self._sessions[client].returning = {b: self.aggregator.changes(client, b) for b in leaving}
            moved[client] = self._trunks[self._key(client)].moments(
                self.aggregator, range(before[client], cut)
            )
        for key in dict.fromkeys(self._key(client) for client in cuts):
            self._trunks[key].load(self.aggregator, self._trunk_ranks(key))
        down = {}
        for client, cut in cuts.items():
            ranks = self._ranks(client) if not evaluate else dict.fromkeys(self.adapter, self.job.lora_r)
            message = self.aggregator.hand_out(round_, client, cut, self.tail_start, ranks)
            blocks, steps, moments = pack_blocks(moved[client])
            down[client] = replace(message, moved=blocks, moved_steps=steps, moments=moments)
        return down

    def take_moments(self, states: Mapping[str, OptimizerState]) -> None:
        """Take over the optimizer state of blocks that came back to the trunks with lower cuts."""
        back: dict[str, dict[int, list[Moments]]] = defaultdict(lambda: defaultdict(list))
        for client, state in states.items():
            session, freeze_a = self._sessions[client], self.job.aggregation == "freeze_a"
            layout = self.model.slots.layout
            given = unpack_blocks(state.moved, state.moved_steps, state.moments, layout, freeze_a)
            for block, moments in given.items():
                if block not in session.returning:
                    raise ValueError(f"{client} sent the optimizer state of block {block}, which it keeps")
                for basis in session.returning[block]:
                    moments = rebase(moments, basis)
                back[self._key(client)][block].append(moments)
        for key, blocks in back.items():
            top = {b: max(rank_of(m.exp_avg) for m in given) for b, given in blocks.items()}
            self._trunks[key].adopt({
                b: mean_moments([resize_moments(m, top[b]) for m in given]) for b, given in blocks.items()
            })  # fmt: skip

    def step(self, messages: Mapping[str, Message]) -> dict[str, Message]:
        """Answer one message of each client named; with a shared trunk, of the whole cohort at once."""
        train = {c: m for c, m in messages.items() if isinstance(m, Activations) and m.train}
        self._take_norms(train)
        rows = {client: sum(message.lengths) for client, message in train.items()}
        for client, number in rows.items():
            session = self._sessions[client]
            session.rows += number
            session.share = number / sum(rows.values()) if self.shared else 1.0
        replies = {c: r for c, m in messages.items() if (r := self._answer(c, m)) is not None}
        return self._close_step(replies)

    def gather(self, updates: Mapping[str, AdapterUp]) -> None:
        """Take in what clients trained in this round."""
        self._take_norms(updates)
        for client, update in updates.items():
            ranks, rows = self._ranks(client), float(self._sessions[client].rows)
            for block, values in zip(update.blocks, update.values, strict=True):
                specs = trained_specs(self.model.slots.layout[block], self.job.aggregation == "freeze_a")
                trained = unflatten(values.to(self.model.device), specs)
                whole = resize(self.adapter[block], ranks[block]) | trained
                self._contributions[block][client] = whole, rows

    def aggregate(self) -> None:
        """Average what the clients and the trunks trained in this round, block by block.

        Sums go in the clients' order, whether a client or its trunk holds the block, and a shared trunk comes
        last: where the cuts are is then not seen in the last bit, either.
        """
        trained = [client for client, session in self._sessions.items() if session.rows]
        for key in dict.fromkeys(self._key(client) for client in trained):
            members = [self._sessions[client] for client in trained if self._key(client) == key]
            for block, adapter in self._trunks[key].values().items():
                if rows := sum(session.rows for session in members if session.cut <= block):
                    self._contributions[block][key] = adapter, float(rows)
        order = [*self._sessions, SHARED]
        self.aggregator.aggregate({
            block: [given[holder] for holder in order if holder in given]
            for block, given in sorted(self._contributions.items())
        })  # fmt: skip
        self._contributions.clear()
        for session in self._sessions.values():
            session.rows = 0

    def truncation_errors(self) -> dict[int, float]:
        """Return the relative error of each block that was brought to a lower rank since the last call."""
        errors, self.aggregator.truncation_errors = self.aggregator.truncation_errors, {}
        return errors

    def training_losses(self) -> dict[str, tuple[float, int]]:
        """Return (sum of token losses, tokens) of each client since the last call."""
        losses = {c: (s.loss_sum, s.loss_tokens) for c, s in self._sessions.items() if s.loss_tokens}
        for session in self._sessions.values():
            session.loss_sum, session.loss_tokens = 0.0, 0
        return losses

    def take_metrics(self) -> dict[str, Metrics]:
        """Return the sums over each client's held-out rows since the last call."""
        metrics, self.metrics = self.metrics, {}
        return metrics

    def _key(self, client: str) -> str:
        return SHARED if self.shared else client

    def _ranks(self, client: str) -> dict[int, int]:
        return job_ranks(self.job, self.model.num_blocks, self._sessions[client].cut)

    def _wanted_ranks(self) -> dict[int, list[int]]:
        """{block: effective ranks at which some party holds it}, for every block with an adapter."""
        ranks = [self._ranks(client) for client in self._sessions]
        return {block: [each[block] for each in ranks] for block in self.adapter}

    def _trunk_ranks(self, key: str) -> dict[int, int]:
        """{block: effective rank} of a trunk: the highest that one of its clients' cuts asks for."""
        ranks: dict[int, int] = {}
        for client, session in self._sessions.items():
            if self._key(client) == key:
                for block, rank in self._ranks(client).items():
                    if session.cut <= block < self.tail_start and block in self.adapter:
                        ranks[block] = max(rank, ranks.get(block, 0))
        return ranks

    def _answer(self, client: str, message: Message) -> Message | None:
        session = self._sessions[client]
        match message:
            case Activations(train=True):
                return self._train(client, session, message)
            case Activations(train=False):
                return self._evaluate(client, session, message)
            case TailGradients():
                return self._train_from_tail(client, session, message)
            case Metrics():
                self._add_metrics(client, message)
                return None
            case LocalLoss():
                session.rows += sum(message.lengths)
                session.add_loss(message.loss, message.loss_tokens, message.micro_step)
                return None
            case _:
                raise ValueError(f"a server cannot take {type(message).__name__} from {client}")

    def _train(self, client: str, session: _Session, message: Activations) -> Message:
        place = Place(client, message.round, message.step, message.micro_step, train=True)
        mask, inputs = self._inputs(message)
        entering = to_batch(message.hidden, mask).requires_grad_()
        session.entering, session.mask = entering, mask
        self.model.bind(self._trunks[self._key(client)].trained.blocks)
        if self.job.labels == "client":
            session.leaving = self.model.run(
                session.cut, self.tail_start, place, hidden=entering, attention_mask=mask, **inputs
            )
            hidden = to_rows(session.leaving.detach(), mask)
            return TrunkOutput(message.round, message.step, message.micro_step, True, hidden)
        labels = self._labels(message, mask)
        loss = self.model.loss(
            session.cut,
            place,
            labels=labels,
            loss_tokens=message.loss_tokens,
            hidden=entering,
            attention_mask=mask,
            **inputs,
        )
        tokens = message.loss_tokens or loss_token_count(labels)
        return self._backward(client, session, place, loss, None, loss.item(), tokens)

    def _train_from_tail(self, client: str, session: _Session, message: TailGradients) -> Message:
        if session.leaving is None or session.mask is None:
            raise ValueError(f"{client} sent a tail gradient, but nothing waits for one")
        place = Place(client, message.round, message.step, message.micro_step, train=True)
        self.model.bind(self._trunks[self._key(client)].trained.blocks)  # for recomputed blocks
        gradient = to_batch(message.gradient, session.mask)
        leaving, session.leaving = session.leaving, None
        return self._backward(client, session, place, leaving, gradient, message.loss, message.loss_tokens)

    def _backward(
        self,
        client: str,
        session: _Session,
        place: Place,
        output: Tensor,
        gradient: Tensor | None,
        loss: float,
        loss_tokens: int,
    ) -> Gradients:
        assert session.entering is not None and session.mask is not None
        parameters = self._trunks[self._key(client)].trained.parameters()
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            [output], [session.entering, *parameters], [gradient], allow_unused=True
        )
        at_cut = gradients[0]
        assert at_cut is not None
        for parameter, own in zip(parameters, gradients[1:], strict=True):
            if own is None:
                continue
            own = own if session.share == 1 else own * session.share
            parameter.grad = own if parameter.grad is None else parameter.grad.add_(own)
        session.add_loss(loss, loss_tokens, place.micro_step)
        rows = to_rows(at_cut, session.mask)
        session.entering = session.mask = None
        return Gradients(place.round, place.step, place.micro_step, loss, rows)

    def _evaluate(self, client: str, session: _Session, message: Activations) -> Message:
        place = Place(client, message.round, message.step, 0, train=False)
        mask, inputs = self._inputs(message)
        inputs |= {"hidden": to_batch(message.hidden, mask), "attention_mask": mask}
        self.model.bind({b: a for b, a in self.adapter.items() if session.cut <= b < self.tail_start})
        if self.job.labels == "client":
            with torch.no_grad():
                leaving = self.model.run(session.cut, self.tail_start, place, **inputs)
            return TrunkOutput(message.round, message.step, 0, False, to_rows(leaving, mask))
        metrics = self.model.metrics(session.cut, place, labels=self._labels(message, mask), **inputs)
        self._add_metrics(client, metrics)
        return metrics

    def _inputs(self, message: Activations) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the attention mask, and the real ids where the model's later blocks read them."""
        mask = mask_of(message.lengths, self.model.device)
        if self.model.server_inputs == "dummy_ids":
            return mask, {}
        if message.input_ids is None:
            raise ValueError("this model needs the input ids at the server, and none came")
        return mask, {"input_ids": to_batch(message.input_ids.long(), mask)}

    def _labels(self, message: Activations, mask: Tensor) -> Tensor:
        if message.labels is None:
            raise ValueError("labels stay at the server in this job, and none came")
        return to_batch(message.labels.long(), mask, fill=-100)

    def _add_metrics(self, client: str, metrics: Metrics) -> None:
        old = self.metrics.get(client, Metrics(metrics.round, 0.0, 0.0, 0, 0.0, 0))
        self.metrics[client] = Metrics(
            metrics.round, old.nll + metrics.nll, old.correct + metrics.correct, old.tokens + metrics.tokens,
            old.paper_correct + metrics.paper_correct, old.paper_tokens + metrics.paper_tokens,
        )  # fmt: skip

    def _close_step(self, replies: dict[str, Message]) -> dict[str, Message]:
        """After the last micro-batch of a step, tell the clients the trunk's gradient norms."""
        last = self.job.gradient_accumulation_steps - 1
        closing = {c: r for c, r in replies.items() if isinstance(r, Gradients) and r.micro_step == last}
        for key in dict.fromkeys(self._key(client) for client in closing):
            members = {c: r for c, r in closing.items() if self._key(c) == key}
            step = next(global_step(self.job, r.round, r.step) for r in members.values())
            weights = {client: self._sessions[client].share for client in members}
            norms = self._trunks[key].close_step(step, weights)
            replies |= {client: replace(reply, grad_norms=norms) for client, reply in members.items()}
        return replies

    def _take_norms(self, messages: Mapping[str, Activations | AdapterUp]) -> None:
        """Take the trunks' optimizer steps that waited for the norms which these messages bring."""
        for key in dict.fromkeys(self._key(client) for client in messages):
            front, tail = {}, {}
            for client, message in messages.items():
                if self._key(client) == key and message.grad_norms is not None:
                    freeze_a = self.job.aggregation == "freeze_a"
                    blocks = [s for b, s in self.model.slots.layout.items() if b < self._sessions[client].cut]
                    before = sum(len(trained_specs(specs, freeze_a)) for specs in blocks)
                    front[client], tail[client] = message.grad_norms[:before], message.grad_norms[before:]
            if front:
                self._trunks[key].take_step(front, tail)
