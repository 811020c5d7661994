"""The server's own view of a job's first local step, and, by another path, the rows behind it."""

from __future__ import annotations

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


def audited(job: J, rows: int) -> J:
    """Return the job whose first local step has at least `rows` rows of each client, MOST_TOKENS each.

    All of them belong to one optimizer step, in the job's own micro-batches: no adapter moves in between.
    """
    return job.model_copy(
        update={
            "max_length": min(job.max_length, MOST_TOKENS),
            "gradient_accumulation_steps": ceil(rows / job.per_device_train_batch_size),
            "local_steps": 1,
            "num_train_epochs": None,
            "clients_per_round": None,
        }
    )


def capture(start: Assembly) -> list[ClientView]:
    """Take the first local step of every client of an assembled job, and return what the server was given.

    Nothing is trained: the step ends before the optimizer. Empty where clients send nothing to a server.
    """
    parties = make_parties(start)
    cohort, server = parties.cohort, parties.server
    if not isinstance(cohort, LocalCohort) or not isinstance(server, Server):
        return []
    parties.policy.decide(0, None)
    cuts = parties.policy.decide(1, None)
    server.take_moments(cohort.receive(server.hand_out(1, cuts)))
    views = {name: ClientView(name, cut) for name, cut in cuts.items()}
    for name in cohort.names:
        for messages in cohort.train([name], 1, together=False):
            _exchange(server, cohort, messages, views)
    return list(views.values())


def _exchange(
    server: Server, cohort: LocalCohort, messages: dict[str, Message], views: dict[str, ClientView]
) -> None:
    """Note what goes up; where labels are at home, the trunk's output, too, and what the tail returns."""
    for name, message in messages.items():
        if not isinstance(message, LocalLoss):  # a note for the record; it never leaves the client
            views[name].up.append(message)
    asked = {n: m for n, m in messages.items() if isinstance(m, Activations)}
    waiting: dict[str, Message] = {**asked}
    if all(message.labels is not None for message in asked.values()):
        return  # the server's answer would bring nothing else up
    while waiting:
        replies = server.step(waiting)
        for name, reply in replies.items():
            if isinstance(reply, TrunkOutput):
                views[name].down.append(reply)
        waiting = cohort.answer(replies)
        for name, message in waiting.items():
            views[name].up.append(message)


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
