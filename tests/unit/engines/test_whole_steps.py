"""Steps of whole models: losses go up unasked, and the server asks for something else at any time."""

from __future__ import annotations

import queue
from types import SimpleNamespace
from typing import Any

import pytest

from splitft import Job
from splitft.engines.network.control import WIRE, Skip, Started, Train, packed
from splitft.engines.network.conversation import Conversation
from splitft.engines.network.local_steps import LocalSteps, StepsOverError
from splitft.engines.network.training import TrunkTransaction
from splitft.wire.messages import AdapterUp, LocalLoss, Message

JOB = Job(model_name_or_path="m", dataset_name="d", clients=1, method="fed_lora", local_steps=3)


def losses() -> list[LocalLoss]:
    return [LocalLoss(1, step, 0, 0.5, (3,), 2) for step in range(JOB.local_steps)]


def test_losses_count_that_come_together_with_the_adapters() -> None:
    sent: list[Any] = []
    members: Any = SimpleNamespace(
        send=lambda name, message: sent.append(message),
        coordinator=SimpleNamespace(holdings={"anna": SimpleNamespace(micro_batches=1)}),
    )
    transaction = TrunkTransaction(members, JOB, ["anna"], round=1)
    for message in (Started(1, 1), *losses(), AdapterUp(1, (), ())):
        transaction.take("anna", message)
    assert sent == [Train(1, 1)]
    ready = []
    while transaction.unfinished:
        assert not transaction.awaited
        ready.append(transaction.ready())
    assert ready == [{"anna": loss} for loss in losses()]
    assert "anna" in transaction.updates and transaction.ready() == {}


def test_another_request_ends_the_steps() -> None:
    """A client that the round goes on without stops at its next step, and not at the end of all."""
    sent: list[Any] = []
    dialler: Any = SimpleNamespace(
        incoming=queue.SimpleQueue(), send=lambda session, payload: sent.append(WIRE.decode(payload))
    )

    class Client:
        settings, micro_steps, micro_batches, ahead = JOB, 1, 1, 0

        def forward(self, round_: int, step: int, micro_step: int) -> Message:
            if step == 1:
                dialler.incoming.put(packed(Skip(0)))
            return losses()[step]

    client: Any = Client()
    with pytest.raises(StepsOverError) as over:
        LocalSteps(Conversation(dialler)).train(client, 1)
    assert over.value.args == (Skip(0),) and sent == losses()[:2]
