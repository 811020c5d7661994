"""The run, read top to bottom. It knows two roles, `Server` and `Cohort`, and no engine that joins them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from splitft.history import RoundRecord, make_record
from splitft.job import Job
from splitft.ledger import Ledger
from splitft.messages import AdapterDown, AdapterUp, Gradients, Message, Metrics
from splitft.seeds import numpy_generator


class Server(Protocol):
    """Runs trunks, and keeps the global adapter."""

    def hand_out(self, round_: int, cuts: Mapping[str, int]) -> dict[str, AdapterDown]: ...
    def step(self, messages: Mapping[str, Message]) -> dict[str, Message]: ...
    def aggregate(self, updates: Mapping[str, AdapterUp]) -> None: ...
    def training_losses(self) -> dict[str, tuple[float, int]]: ...
    def take_metrics(self) -> dict[str, Metrics]: ...


class Cohort(Protocol):
    """All clients, wherever they are, and the carrier of their messages."""

    @property
    def names(self) -> Sequence[str]: ...
    def receive(self, adapters: Mapping[str, AdapterDown]) -> None: ...
    def train(
        self, members: Sequence[str], round_: int, step: int, micro_step: int, *, together: bool
    ) -> Iterator[dict[str, Message]]: ...
    def evaluate(self, members: Sequence[str], round_: int) -> Iterator[dict[str, Message]]: ...
    def answer(self, replies: Mapping[str, Message]) -> dict[str, Message]: ...
    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]: ...


class Observer(Protocol):
    """Is told what happens, for people to see."""

    def on_loss(self, round_: int, step: int, client: str, loss: float) -> None: ...
    def on_evaluation(self, round_: int) -> None: ...
    def on_round(self, record: RoundRecord) -> None: ...


def run_rounds(
    job: Job, cuts: Mapping[str, int], server: Server, cohort: Cohort, ledger: Ledger, observer: Observer
) -> Iterator[RoundRecord]:
    """Run all rounds and yield the record of each; round 0 is the evaluation before training.

    cuts: {client: blocks on that client}. Each client weighs in the average as much as the tokens that the
    server saw of it. The caller may stop between records; the server's adapter is then the last round's.
    """
    for round_ in range(job.rounds + 1):
        started, before = time.perf_counter(), ledger.copy()
        members = sample_members(job, cohort.names, round_) if round_ else []

        # Hand out the adapters that members lack.
        if members:
            cohort.receive(server.hand_out(round_, {name: cuts[name] for name in members}))

        # Local steps: activations up, the server's step, gradients down.
        for step in range(job.local_steps if members else 0):
            for micro_step in range(job.gradient_accumulation_steps):
                shared = job.server_adapter == "shared"
                for messages in cohort.train(members, round_, step, micro_step, together=shared):
                    exchange(server, cohort, messages, observer)

        # Gather what was trained, and average it block by block.
        if members:
            server.aggregate(cohort.finish(members, round_))
        trained = time.perf_counter()

        # Evaluate the new global adapter through the split, each client on its own held-out rows.
        if round_ % job.eval_every == 0 or round_ == job.rounds:
            observer.on_evaluation(round_)
            cohort.receive(server.hand_out(round_, cuts))
            for messages in cohort.evaluate(cohort.names, round_):
                exchange(server, cohort, messages, observer)

        # Record.
        seconds = (trained - started, time.perf_counter() - trained)
        losses, metrics = server.training_losses(), server.take_metrics()
        record = make_record(round_, members, cuts, losses, metrics, ledger.since(before), seconds)
        observer.on_round(record)
        yield record


def exchange(server: Server, cohort: Cohort, messages: dict[str, Message], observer: Observer) -> None:
    """Carry messages to the server and its replies back, until neither has anything left to say."""
    while messages:
        replies = server.step(messages)
        for client, reply in replies.items():
            if isinstance(reply, Gradients):
                observer.on_loss(reply.round, reply.step, client, reply.loss)
        messages = cohort.answer(replies)


def sample_members(job: Job, names: Sequence[str], round_: int) -> list[str]:
    """Return the cohort of a round, in the clients' order: all, or a seeded sample without replacement."""
    count = job.clients_per_round or len(names)
    if count >= len(names):
        return list(names)
    chosen = numpy_generator(job.seed, "cohort", round_).choice(len(names), size=count, replace=False)
    return [names[i] for i in sorted(chosen.tolist())]
