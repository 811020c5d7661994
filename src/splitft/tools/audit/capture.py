"""The server's own view of a job's first local step, and, by another path, the rows behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

import torch
from torch import Tensor

from splitft.client.batches import StepBatches
from splitft.engines.local import LocalCohort
from splitft.job.settings import CostSettings
from splitft.running.parties import make_parties
from splitft.running.prepare import Assembly
from splitft.server.server import Server
from splitft.tools.audit.attacks.view import ClientView
from splitft.wire.messages import Activations, LocalLoss, Message, TrunkOutput

J = TypeVar("J", bound=CostSettings)
MOST_TOKENS = 64  # of a row
MOST_CLIENTS = 8  # more only where there are more cuts


def audited(job: J, rows: int, *, whole: bool = False) -> J:
    """Return the job whose first local step has at least `rows` rows of each client, MOST_TOKENS each.

    All of them belong to one optimizer step, in the job's own micro-batches: no adapter moves in between.
    whole: the rows are as long as the job's, as a run of it has them.
    """
    return job.model_copy(
        update={
            "max_length": job.max_length if whole else min(job.max_length, MOST_TOKENS),
            "gradient_accumulation_steps": ceil(rows / job.per_device_train_batch_size),
            "local_steps": 1,
            "num_train_epochs": None,
            "clients_per_round": None,
        }
    )


def capture(start: Assembly, *, answered: int = 0) -> list[ClientView]:
    """Take the first local step of every client of an assembled job, and return what the server was given.

    Nothing is trained: the step ends before its gradients. Of many clients some are chosen. Empty where
    clients send nothing to a server. answered: samples of each client that the server answers where labels
    are at home, so that their tails send gradients; at least.
    """
    parties = make_parties(start)
    cohort, server = parties.cohort, parties.server
    if not isinstance(cohort, LocalCohort) or not isinstance(server, Server):
        return []
    parties.policy.decide(0, None)
    cuts = parties.policy.decide(1, None)
    server.take_moments(cohort.receive(server.hand_out(1, cuts)))
    views = {name: ClientView(name, cuts[name]) for name in chosen_clients(cuts)}
    for name, view in views.items():
        for messages in cohort.train([name], 1, together=False):
            # A LocalLoss is a note for the record; it never leaves the client.
            view.up.extend(message for message in messages.values() if not isinstance(message, LocalLoss))
            asked = {n: m for n, m in messages.items() if isinstance(m, Activations) and m.labels is None}
            if (
                asked
                and sum(len(message.lengths) for message in view.activations[: len(view.down)]) < answered
            ):
                _answer(server, cohort, asked, view)
    return list(views.values())


def has_answers(start: Assembly) -> bool:
    """Whether some tokens of the rows carry no loss, so that the others are answers."""
    return any(bool((row < 0).any()) for client in start.clients for row in client.train.labels)


def chosen_clients(cuts: Mapping[str, int]) -> list[str]:
    """Return the first client of each cut, and others up to MOST_CLIENTS, in the job's order."""
    first = {cut: name for name, cut in reversed(list(cuts.items()))}.values()
    others = [name for name in cuts if name not in first][: max(0, MOST_CLIENTS - len(first))]
    return [name for name in cuts if name in {*first, *others}]


def _answer(server: Server, cohort: LocalCohort, messages: Mapping[str, Message], view: ClientView) -> None:
    """Have the server answer activations; note its trunk's output, and what the client's tail returns."""
    replies = server.step(messages) or server.step({})  # it may answer in a later call
    view.down.extend(reply for reply in replies.values() if isinstance(reply, TrunkOutput))
    view.up.extend(cohort.answer(replies).values())


@dataclass(frozen=True)
class TrueRow:
    """A sample behind a message: its (tokens,) ids, and its labels with -100 where there is no loss."""

    ids: Tensor
    labels: Tensor


def true_rows(start: Assembly, view: ClientView) -> list[TrueRow]:
    """Return every sample behind a client's view, in the order of its messages.

    They come from the client's data, drawn as the client draws them, and from no message.
    """
    data = next(client for client in start.clients if client.name == view.name)
    drawn = StepBatches(start.job, view.name, data, start.pad_token_id, torch.device("cpu"))
    steps = start.job.gradient_accumulation_steps
    parts = max(1, len(view.activations) // steps)
    rows: list[TrueRow] = []
    for number in range(steps):
        for batch in (drawn.micro_batch(number * parts + part, parts) for part in range(parts)):
            ids, labels = (
                torch.split(own.long(), list(batch.lengths)) for own in (batch.id_rows, batch.label_rows)
            )
            rows += map(TrueRow, ids, labels)
    return rows
