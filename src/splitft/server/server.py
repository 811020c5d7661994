"""The server: runs the trunk for every client on one frozen base, and has adapters averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from splitft.common.failpoints import failpoint
from splitft.common.state import State
from splitft.job import Job
from splitft.lora.blocks import Adapter, rank_of, trained_specs
from splitft.lora.means import Mean
from splitft.lora.moments import Moments, mean_moments, pack_blocks, rebase, resize_moments, unpack_blocks
from splitft.lora.optimizer import global_step
from splitft.lora.ranks import job_ranks
from splitft.lora.robust import Contribution
from splitft.model.split_model import SplitModel
from splitft.server.average import SHARED, Contributions, average_blocks, client_contributions
from splitft.server.batched_step import Waiting, train_in_batches
from splitft.server.global_adapter import GlobalAdapter
from splitft.server.served import Served
from splitft.server.trunk import Trunk
from splitft.wire.messages import (
    Activations,
    AdapterDown,
    AdapterUp,
    Gradients,
    LocalLoss,
    Message,
    Metrics,
    OptimizerState,
    TailGradients,
)


class RemoteAverage(Protocol):
    """Averages elsewhere what clients hand in there (`splitft aggregator`)."""

    def average(
        self, old: Adapter, clients: Mapping[str, tuple[int, int]], trunks: Contributions
    ) -> Adapter: ...


class Server:
    """The server of a run. A client weighs as much as the rows that the server saw, not what it was told.

    log: is told of every step that takes effect, for a record that can be checked. averager: gets the
    trunks' adapters, with {client: (cut, rows)} of those who trained, and has their updates; None: they come
    here. Raises ValueError where a message does not fit the session.
    """

    def __init__(
        self,
        model: SplitModel,
        job: Job,
        adapter: Adapter,
        mean: Mean | None = None,
        log: Callable[[dict[str, Any]], None] = lambda line: None,
        averager: RemoteAverage | None = None,
    ) -> None:
        self._log = log
        self.model = model
        self.job = job
        self.shared = job.server_adapter == "shared"
        self.aggregator = GlobalAdapter(adapter, job, model.slots.layout)
        self.averager = averager
        self._mean = mean
        self.micro_batches: Callable[[str], int] = lambda client: 1  # of each client, in the next round
        self.batch_tokens = 0  # most tokens of several clients at once; 0: one client at a time
        self.metrics: dict[str, Metrics] = {}
        self._sessions: dict[str, Served] = {}
        self._trunks: dict[str, Trunk] = {}
        self._marks: dict[str, State] = {}
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
        before = {client: self._session(client).cut or cut for client, cut in cuts.items()}
        for client, cut in cuts.items():
            self._session(client).cut = cut
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
            parts = self._sessions[client].micro_batches = self.micro_batches(client)
            down[client] = replace(
                message, moved=blocks, moved_steps=steps, moments=moments, micro_batches=parts
            )
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
        failpoint("server.step")
        train = {c: m for c, m in messages.items() if isinstance(m, Activations) and m.train}
        self._take_norms(train)
        rows = {c: message.batch_tokens or sum(message.lengths) for c, message in train.items()}
        for client, number in rows.items():
            session = self._sessions[client]
            session.rows += sum(train[client].lengths)
            session.share = number / sum(rows.values()) if self.shared else 1.0
        replies = self._answers(messages)
        for client, reply in replies.items():
            if isinstance(reply, Gradients):
                place = {"round": reply.round, "step": reply.step, "micro_step": reply.micro_step}
                self._log({"event": "backward", "client": client, **place})
        return self._close_step(replies)

    def gather(self, updates: Mapping[str, AdapterUp]) -> None:
        """Take in what clients trained in this round."""
        self._take_norms(updates)
        for client, update in updates.items() if self.averager is None else ():
            session = self._sessions[client]
            given = client_contributions(
                self.job, self.model.slots.layout, self.model.num_blocks, self.adapter, update,
                cut=session.cut, rows=session.rows,
            )  # fmt: skip
            for block, contribution in given.items():
                self._contributions[block][client] = contribution

    def aggregate(self) -> None:
        """Average what the clients and the trunks trained in this round, block by block.

        Sums go in the clients' order, whether a client or its trunk holds the block, and a shared trunk comes
        last: where the cuts are is then not seen in the last bit, either.
        """
        failpoint("server.aggregate")
        trained = {client: session for client, session in self._sessions.items() if session.rows}
        for key in dict.fromkeys(self._key(client) for client in trained):
            members = [session for client, session in trained.items() if self._key(client) == key]
            for block, adapter in self._trunks[key].values().items():
                if rows := sum(session.rows for session in members if session.cut <= block):
                    self._contributions[block][key] = adapter, float(rows)
        if self.averager is None:
            averaged = average_blocks(
                self.job, self.adapter, self._contributions, [*self._sessions, SHARED], self._mean
            )
        else:
            clients = {client: (session.cut, session.rows) for client, session in trained.items()}
            averaged = self.averager.average(self.adapter, clients, self._contributions)
        self._log({"event": "aggregate", "rows": {c: session.rows for c, session in trained.items()}})
        self.aggregator.adopt(averaged)
        self._contributions.clear()
        for session in self._sessions.values():
            session.rows = 0

    def state(self) -> State:
        """Return all that outlasts a round, as a checkpoint holds it."""
        return {
            "aggregator": self.aggregator.state(),
            "batch_tokens": self.batch_tokens,
            "cuts": {client: session.cut for client, session in self._sessions.items()},
            "trunks": {key: trunk.trained.state() for key, trunk in self._trunks.items()},
        }

    def load_state(self, state: State) -> None:
        """Be as `state` was taken, after a round."""
        self.aggregator.load_state(state["aggregator"], self.model.device)
        self.batch_tokens = state["batch_tokens"]  # what was measured once stays, and with it all sums
        self._sessions = {}
        for name, cut in state["cuts"].items():
            self._session(name).cut = cut
        self._trunks = {key: Trunk(self.job, key) for key in state["trunks"]}
        for key, trunk in self._trunks.items():
            trunk.trained.load_state(state["trunks"][key], self.model.device)
        self._contributions.clear()
        self.metrics = {}

    def knows(self, client: str) -> bool:
        """Whether a client was ever handed anything out."""
        return client in self._sessions

    def micro_batches_of(self, client: str) -> int:
        """Return the parts that a client was told to send each batch in."""
        return self._sessions[client].micro_batches

    def micro_steps(self, client: str) -> int:
        """Return the micro-batches of an optimizer step of a client."""
        return self.job.gradient_accumulation_steps * self._sessions[client].micro_batches

    def cut_of(self, client: str) -> int:
        """Return a client's cut."""
        return self._sessions[client].cut

    def returning(self, client: str) -> set[int]:
        """Return the blocks that leave a client with the cut that it was given last."""
        return set(self._sessions[client].returning)

    def mark(self, clients: Sequence[str]) -> None:
        """Remember where these clients' training starts, for `rewind`."""
        self._log({"event": "start", "clients": list(clients)})
        for key in dict.fromkeys(self._key(client) for client in clients):
            self._marks[key] = self._trunks[key].trained.state()

    def rewind(self, clients: Sequence[str]) -> None:
        """Take these clients' training back to the last mark, as if they had not sent anything since.

        With a shared trunk that is the training of all who trained with them.
        """
        self._log({"event": "rewind", "clients": list(clients)})
        for key in dict.fromkeys(self._key(client) for client in clients):
            self._trunks[key] = Trunk(self.job, key)
            self._trunks[key].trained.load_state(self._marks[key], self.model.device)
        for client in clients:
            old = self._sessions[client]
            self._sessions[client] = Served(
                client, self.model, self.job, old.cut, old.returning, micro_batches=old.micro_batches
            )
            self.metrics.pop(client, None)
            for given in self._contributions.values():
                given.pop(client, None)

    def forget_metrics(self, client: str) -> None:
        """Drop the sums over a client's held-out rows: it evaluates them again."""
        self.metrics.pop(client, None)

    def forget(self, client: str) -> None:
        """Note that a client has lost what it held."""
        self.aggregator.forget(client)

    def hand_out_anew(self, round_: int, client: str, *, evaluate: bool = False) -> AdapterDown:
        """Return all that a client holds, as for one that has nothing, not even optimizer state."""
        self.aggregator.forget(client)
        cut = self._sessions[client].cut
        ranks = self._ranks(client) if not evaluate else dict.fromkeys(self.adapter, self.job.lora_r)
        message = self.aggregator.hand_out(round_, client, cut, self.tail_start, ranks)
        return replace(message, micro_batches=self._sessions[client].micro_batches)

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

    def _session(self, client: str) -> Served:
        if client not in self._sessions:
            self._sessions[client] = Served(client, self.model, self.job)
        return self._sessions[client]

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

    def _answers(self, messages: Mapping[str, Message]) -> dict[str, Message]:
        """Answer messages, one by one or several clients together."""
        train = {c: m for c, m in messages.items() if isinstance(m, Activations) and m.train}
        replies: dict[str, Message] = {}
        if self.batch_tokens:
            trunks = {c: self._trunks[self._key(c)].trained for c in train}
            waiting = [Waiting(self._sessions[c], m, trunks[c]) for c, m in train.items()]
            replies |= train_in_batches(self.model, waiting, self.batch_tokens)
        for client in [c for c in messages if c not in replies]:
            reply = self._answer(client, messages[client])
            if reply is not None:
                replies[client] = reply
        return {client: replies[client] for client in messages if client in replies}

    def _answer(self, client: str, message: Message) -> Message | None:
        session = self._session(client)
        match message:
            case Activations(train=True):
                return session.train(message, self._trunks[self._key(client)].trained)
            case TailGradients():
                return session.train_from_tail(message, self._trunks[self._key(client)].trained)
            case Activations(train=False):
                reply = session.evaluate(message, self.adapter)
                if isinstance(reply, Metrics):
                    self._add_metrics(client, reply)
                return reply
            case Metrics():
                self._add_metrics(client, message)
                return None
            case LocalLoss():
                session.rows += sum(message.lengths)
                session.add_loss(message.loss, message.loss_tokens, message.micro_step)
                return None
            case _:
                raise ValueError(f"a server cannot take {type(message).__name__} from {client}")

    def _add_metrics(self, client: str, metrics: Metrics) -> None:
        old = self.metrics.get(client, Metrics(metrics.round, 0.0, 0.0, 0, 0.0, 0))
        self.metrics[client] = old.plus(metrics)

    def _close_step(self, replies: dict[str, Message]) -> dict[str, Message]:
        """After the last micro-batch of a step, tell the clients the trunk's gradient norms."""
        closing = {
            c: r
            for c, r in replies.items()
            if isinstance(r, Gradients) and r.micro_step == self.micro_steps(c) - 1
        }
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
