"""The trunk worker: trains and evaluates the trunks of all clients on one frozen base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from torch import Tensor

from splitft.common.failpoints import failpoint
from splitft.common.state import State
from splitft.job.settings import TrainingSettings
from splitft.lora.blocks import adapter_of, to_device, trained_specs
from splitft.lora.optimizer import global_step, learning_rates
from splitft.model.split_model import SplitModel
from splitft.server.answers import Answers, taken
from splitft.server.seam import (
    GlobalBlocks,
    TrunkLoad,
    TrunkMoments,
    TrunkUpdate,
    by_trunk,
    on_behalf_of,
)
from splitft.server.trunks import Trunk
from splitft.wire.messages import Activations, Gradients, LocalLoss, Message, Metrics


@dataclass(eq=False)
class TrunkWorker:
    """Answers what clients send, and takes their trunks' optimizer steps.

    Raises ValueError where a message does not fit.
    """

    model: SplitModel
    settings: TrainingSettings
    _: KW_ONLY
    batch_tokens: int  # most of several clients that are computed at once; 0: one client at a time
    log: Callable[[dict[str, Any]], None]  # called for each step that counts, and for marks and rewinds

    def __post_init__(self) -> None:
        self.trunks: dict[str, Trunk] = {}  # by key
        self._learning_rate = learning_rates(self.settings)
        self._answers = Answers(self.model, self.settings, self.trunks)
        self._shares: dict[str, float] = {}  # of each client's last micro-batch in its trunk's gradient

    def load(self, start: GlobalBlocks, loads: Mapping[str, TrunkLoad]) -> dict[str, TrunkMoments]:
        """Have trunks start from the global adapter; return the optimizer state of blocks that leave them."""
        adapter = adapter_of(start.blocks, start.values, self.model.slots.layout)
        adapter = to_device(adapter, self.model.device)
        for load in loads.values():
            self._answers.start(adapter, load)
        return {key: self._trunk(key).load(adapter, load) for key, load in loads.items()}

    def adopt(self, moments: Mapping[str, TrunkMoments]) -> None:
        """Give trunks the optimizer state of blocks that came back to them."""
        for key, given in moments.items():
            self.trunks[key].adopt(given)

    def step(self, messages: Mapping[str, Message]) -> dict[str, Message]:
        """Answer one message of each client named; with a shared trunk, of the whole cohort at once.

        Raises ClientError where what some of them sent cannot be computed.
        """
        failpoint("server.step")
        train = {c: m for c, m in messages.items() if isinstance(m, Activations) and m.train}

        # Take the optimizer steps that wait for the norms which these messages bring.
        self.take_norms({c: m.grad_norms for c, m in train.items() if m.grad_norms is not None})

        # Weigh the clients: by their rows in the average, and in a shared trunk's gradient.
        tokens = {client: message.batch_tokens or sum(message.lengths) for client, message in train.items()}
        shared = self.settings.server_adapter == "shared"
        for client, message in train.items():
            self._answers.sums.rows[client] += sum(message.lengths)
            self._shares[client] = tokens[client] / sum(tokens.values()) if shared else 1.0

        # Run the trunks; tell the norms of their gradients with the last micro-batch of a step.
        replies = self._answers.to(messages, self._shares, self.batch_tokens)
        for client, taken_step in (*replies.items(), *messages.items()):
            if isinstance(taken_step, Gradients | LocalLoss):  # of a trunk, or of a whole model at a client
                one = taken_step
                place = {"round": one.round, "step": one.step, "micro_step": one.micro_step}
                self.log({"event": "backward", "client": client, **place})
        return self._close_step(replies)

    def take_norms(self, norms: Mapping[str, Tensor]) -> None:
        """Take the optimizer steps that wait for these clients' gradient norms."""
        layout, freeze_a = self.model.slots.layout, self.settings.freeze_a
        for key, clients in by_trunk(norms, self.settings).items():
            divided = {}
            for client in clients:
                front = [layout[b] for b in self._answers.served[client].held.front if b in layout]
                before = sum(len(trained_specs(specs, freeze_a)) for specs in front)
                divided[client] = norms[client][:before], norms[client][before:]
            with on_behalf_of(*clients):
                self.trunks[key].take_step(divided)

    def collect(self) -> dict[str, TrunkUpdate]:
        """Return what trunks trained since the last call, and the token rows seen of each client."""
        rows, updates = taken(self._answers.sums.rows), {}
        for key, clients in by_trunk(rows, self.settings).items():
            updates[key] = self.trunks[key].update({client: rows[client] for client in clients})
        return updates

    def training_losses(self) -> dict[str, tuple[float, int]]:
        """Return (sum of token losses, tokens) of each client since the last call."""
        losses = taken(self._answers.sums.losses)
        return {client: loss for client, loss in losses.items() if loss[1]}

    def take_metrics(self) -> dict[str, Metrics]:
        """Return the sums over each client's held-out rows since the last call."""
        return self._answers.sums.take_metrics()

    @property
    def first_metrics(self) -> dict[str, Metrics]:
        """Return the sums over each client's held-out rows in its first evaluation."""
        return dict(self._answers.sums.first)

    def mark(self, clients: Sequence[str], *, again: bool = False) -> None:
        """Remember where these clients' training starts, for `rewind`. again: once more in a round."""
        if not again:
            self.log({"event": "start", "clients": list(clients)})
        for key in by_trunk(clients, self.settings):
            self.trunks[key].mark()

    def rewind(self, clients: Sequence[str], *, first: bool = False) -> None:
        """Roll these clients' training back to the last mark, as if they had not sent anything since.

        With a shared trunk that is the training of all who trained with them. first: Back to the first mark
        of the round.
        """
        self.log({"event": "rewind", "clients": list(clients)})
        for key in by_trunk(clients, self.settings):
            self.trunks[key].rewind(first=first)
        for client in clients:
            self._answers.sums.forget(client)

    def forget_metrics(self, client: str) -> None:
        """Drop the sums over a client's held-out rows: it evaluates them again."""
        self._answers.sums.metrics.pop(client, None)

    def state(self) -> State:
        """Return all that outlasts a round, as a checkpoint holds it."""
        return {
            "batch_tokens": self.batch_tokens,
            "first_evaluation": self._answers.sums.state(),
            "trunks": {key: trunk.trained.state() for key, trunk in self.trunks.items()},
        }

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()` after a round."""
        self.batch_tokens = state["batch_tokens"]  # what was measured once stays, and with it all sums
        self.trunks.clear()
        for key, kept in state["trunks"].items():
            self._trunk(key).load_state(kept)
        self._answers = Answers(self.model, self.settings, self.trunks)
        self._answers.sums.load_state(state["first_evaluation"])

    def _close_step(self, replies: dict[str, Message]) -> dict[str, Message]:
        """After the last micro-batch of a step, tell the clients the trunk's gradient norms."""
        closing: dict[str, Gradients] = {}
        for client, reply in replies.items():
            if isinstance(reply, Gradients):
                parts = self._answers.served[client].micro_batches
                if reply.micro_step == self.settings.gradient_accumulation_steps * parts - 1:
                    closing[client] = reply
        for key, clients in by_trunk(closing, self.settings).items():
            first = closing[clients[0]]
            step = global_step(self.settings, first.round, first.step)
            with on_behalf_of(*clients):
                norms = self.trunks[key].close_step(
                    step, {client: self._shares[client] for client in clients}
                )
            replies |= {client: replace(closing[client], grad_norms=norms) for client in clients}
        return replies

    def _trunk(self, key: str) -> Trunk:
        """Return a trunk, a new one where there is none."""
        if key not in self.trunks:
            layout, device = self.model.slots.layout, self.model.device
            self.trunks[key] = Trunk(self.settings, layout, device, self._learning_rate)
        return self.trunks[key]
