"""The run, read top to bottom. Two roles, `ServerRole` and `CohortRole`, and no engine that joins them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from splitft.common.seeds import derive_seed, numpy_generator
from splitft.data.estimates import HeldOutRows
from splitft.history import OwnFigures, RoundRecord, make_record
from splitft.job.settings import FederationSettings
from splitft.lora.dp.plan import Spent
from splitft.server.seam import ClientError
from splitft.wire.ledger import Ledger
from splitft.wire.messages import (
    Activations,
    AdapterDown,
    AdapterUp,
    Gradients,
    HeldOut,
    LocalLoss,
    Message,
    Metrics,
    OptimizerState,
    TailGradients,
)

if TYPE_CHECKING:
    from splitft.devices.simulate import RoundTimes


_ROUNDING = 1e-9  # of a product: 50 × 1.2 are 60


class ServerRole(Protocol):
    """Runs trunks, and keeps the global adapter."""

    def hand_out(
        self, round_: int, cuts: Mapping[str, int], *, evaluate: bool = False
    ) -> dict[str, AdapterDown]: ...
    def take_moments(self, states: Mapping[str, OptimizerState]) -> None: ...
    def step(self, messages: Mapping[str, Message]) -> dict[str, Message]: ...
    def gather(self, updates: Mapping[str, AdapterUp]) -> None: ...
    def aggregate(self) -> Sequence[str]: ...
    def training_losses(self) -> dict[str, tuple[float, int]]: ...
    def take_metrics(self) -> dict[str, Metrics]: ...
    @property
    def first_metrics(self) -> dict[str, Metrics]: ...
    def truncation_errors(self) -> dict[int, float]: ...
    def accepts(self, metrics: Mapping[str, Metrics]) -> bool: ...


class CohortRole(Protocol):
    """All clients, wherever they are, and the carrier of their messages."""

    over_selection: float  # times clients_per_round that are drawn; the first to finish count
    open: bool  # clients come and go: a round is of those that are there, and of the drawn who finish in time

    @property
    def names(self) -> Sequence[str]: ...
    def present(self, round_: int) -> Sequence[str]: ...
    def receive(self, adapters: Mapping[str, AdapterDown]) -> dict[str, OptimizerState]: ...
    def reachable(self) -> Sequence[str]: ...
    def train(
        self, members: Sequence[str], round_: int, *, together: bool
    ) -> Iterator[dict[str, Message]]: ...
    def evaluate(
        self, members: Sequence[str], round_: int, *, whole: bool
    ) -> Iterator[dict[str, Message]]: ...
    @property
    def held_out(self) -> dict[str, HeldOutRows]: ...
    @property
    def train_rows(self) -> dict[str, int]: ...
    def answer(self, replies: Mapping[str, Message]) -> dict[str, Message]: ...
    def go_on_without(self, error: ClientError, clients: Collection[str]) -> None: ...
    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]: ...
    def times(self, members: Sequence[str]) -> RoundTimes | None: ...


class Cuts(Protocol):
    """Decides where each client's cut lies."""

    def decide(self, round_: int, last: RoundRecord | None) -> dict[str, int]: ...


class Observer:
    """Receives the events of a round (start, loss, evaluation, record), and does nothing with them.

    loss: Mean of a client's optimizer step over its micro-batches so far.
    """

    def on_round_begin(self, round_: int, cuts: Mapping[str, int], cohort: Sequence[str]) -> None: ...
    def on_loss(self, round_: int, step: int, client: str, loss: float) -> None: ...
    def on_evaluation(self, round_: int) -> None: ...
    def on_round(self, record: RoundRecord) -> None: ...


class StepLosses:
    """Mean loss of each client's optimizer step, from the shares of it that its micro-batches have."""

    def __init__(self, micro_steps: int) -> None:
        self._micro_steps = micro_steps  # of a step; more where batches go in parts
        self._shares: dict[str, list[float]] = {}  # of the step under way

    def add(self, client: str, micro_step: int, share: float) -> float:
        """Return the mean over the micro-batches so far; exact with the last one of a step."""
        shares = self._shares.setdefault(client, [])
        del shares[micro_step:]  # a step begins, or begins again
        shares.append(share)
        self._micro_steps = max(self._micro_steps, len(shares))
        whole = len(shares) == self._micro_steps
        return sum(shares) if whole else sum(shares) * self._micro_steps / len(shares)


def run_rounds(
    job: FederationSettings,
    policy: Cuts,
    server: ServerRole,
    cohort: CohortRole,
    ledger: Ledger,
    observer: Observer,
    last: RoundRecord | None = None,
    own_figures: Callable[[Mapping[str, HeldOutRows]], OwnFigures] | None = None,
    spent: Spent | None = None,
) -> Iterator[RoundRecord]:
    """Run all rounds and yield the record of each; round 0 is the evaluation before training.

    Each client weighs in the average as much as the tokens that the server saw of it. Between records the
    caller may stop, or write down the state of all parties; to go on from there, `last` is the last record.
    own_figures: called after each evaluation; returns further figures of its rows.
    spent: counts the steps with differential privacy.
    """
    record, losses = last, StepLosses(job.gradient_accumulation_steps)
    for round_ in range(record.round + 1 if record else 0, job.rounds + 1):
        started, before = time.perf_counter(), ledger.copy()

        # Adapt the cuts to what the clients' devices and results are.
        cuts = policy.decide(round_, record)
        over = cohort.over_selection
        members = sample_members(job, cohort.present(round_), round_, over) if round_ else []
        observer.on_round_begin(round_, {n: cuts[n] for n in members} if cohort.open else cuts, members)

        # Hand out the adapters that members lack; blocks move with their optimizer state.
        if members:
            back = cohort.receive(server.hand_out(round_, {name: cuts[name] for name in members}))
            server.take_moments(back)

        # Local steps, and their average, block by block. Where a shared trunk has trained with clients that
        # are then to blame, the others take their steps again, from the start of the round.
        left, blamed = list(members), list[str]()
        while left:
            train(job, left, round_, server, cohort, observer, losses)
            blamed = [*server.aggregate()]
            if not blamed:
                break
            left = [name for name in left if name not in blamed]
        if spent:
            spent.add(members)
        trained = time.perf_counter()
        figures: OwnFigures = {}
        metrics: dict[str, Metrics] = {}
        there: Sequence[str] = ()

        # Evaluate the new global adapter on each client's held-out rows: a sample, at the end all of them.
        stands = bool(round_ % job.eval_every) and round_ != job.rounds
        while not stands:
            observer.on_evaluation(round_)
            there = sample_evaluated(job, cohort.reachable())
            back = cohort.receive(
                server.hand_out(round_, {name: cuts[name] for name in there}, evaluate=True)
            )
            server.take_moments(back)
            for messages in cohort.evaluate(there, round_, whole=round_ == job.rounds):
                exchange(server, cohort, messages, observer, losses)
            figures = own_figures(cohort.held_out) if own_figures else {}
            metrics = server.take_metrics()
            stands = server.accepts(metrics)  # else the round's average was made again

        # Record. Where clients come and go: those that counted, and of all others nothing.
        trained_losses = server.training_losses()
        if cohort.open:
            members = [name for name in members if name in trained_losses]
            cuts = {name: cuts[name] for name in cohort.names if name in {*members, *there}}
        record = make_record(
            round_,
            members,
            cuts if job.splits_model else dict.fromkeys(cuts),
            losses=trained_losses,
            metrics=metrics,
            first=server.first_metrics,
            held_out=cohort.held_out,
            own_metrics=job.metrics,
            own_figures=figures,
            spent=spent.so_far(cohort.train_rows) if spent else None,
            ledger=ledger.since(before),
            seconds=(trained - started, time.perf_counter() - trained),
            times=cohort.times(members),
            truncation_errors=server.truncation_errors(),
        )
        observer.on_round(record)
        yield record


def train(
    job: FederationSettings,
    members: Sequence[str],
    round_: int,
    server: ServerRole,
    cohort: CohortRole,
    observer: Observer,
    losses: StepLosses,
) -> None:
    """Have the members take their local steps: activations up, the server's step, gradients down.

    The server then has what was trained. A second time in one round, the cohort takes the first steps back.
    """
    for turn in [members] if job.order == "parallel" else [[name] for name in members]:
        for messages in cohort.train(turn, round_, together=job.server_adapter == "shared"):
            exchange(server, cohort, messages, observer, losses)
        server.gather(cohort.finish(turn, round_))


def exchange(
    server: ServerRole,
    cohort: CohortRole,
    messages: dict[str, Message],
    observer: Observer,
    losses: StepLosses,
) -> None:
    """Carry messages to the server and its replies back, until neither has anything left to say.

    The server may answer in a later call: while an answer is owed, it is asked again, without messages.
    Where a client's message cannot be computed, the cohort decides whether the others go on without it.
    """
    owed: set[str] = set()
    while messages or owed:
        for client, message in messages.items():
            if isinstance(message, LocalLoss):
                loss = losses.add(client, message.micro_step, message.loss)
                observer.on_loss(message.round, message.step, client, loss)
            elif isinstance(message, Activations | HeldOut | TailGradients):
                owed.add(client)
        try:
            replies = server.step(messages)
        except ClientError as error:
            cohort.go_on_without(error, {*messages, *owed})
            return
        owed -= replies.keys()
        for client, reply in replies.items():
            if isinstance(reply, Gradients):
                loss = losses.add(client, reply.micro_step, reply.loss)
                observer.on_loss(reply.round, reply.step, client, loss)
        messages = cohort.answer(replies)


def sample_members(
    job: FederationSettings, names: Sequence[str], round_: int, over: float = 1.0
) -> list[str]:
    """Return the cohort of a round, in the clients' order: all, or a seeded sample without replacement.

    names: of the clients that are there. over: times as many as the job says.
    """
    count = math.ceil(job.clients_per_round * over - _ROUNDING) if job.clients_per_round else len(names)
    if count >= len(names):
        return list(names)
    chosen = numpy_generator(job.seed, "cohort", round_).choice(len(names), size=count, replace=False)
    return [names[i] for i in sorted(chosen.tolist())]


def sample_evaluated(job: FederationSettings, there: Sequence[str]) -> Sequence[str]:
    """Return the clients of an evaluation, in their order: all that are there, or `eval_clients` of them.

    Those that come first in one seeded order of all names, so that most are the same from round to round.
    """
    if job.eval_clients is None:
        return there
    chosen = sorted(there, key=lambda name: derive_seed(job.seed, "eval_clients", name))[: job.eval_clients]
    taken = {*chosen}
    return [name for name in there if name in taken]
