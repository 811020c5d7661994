"""Phases of a round: which messages they read, and what a message outside of them does."""

from __future__ import annotations

import queue
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from splitft.data.sample import HeldOutPart
from splitft.engines.network.cohort import Evaluation, HandOut
from splitft.engines.network.control import (
    EVALUATION,
    WIRE,
    Evaluated,
    Held,
    Load,
    Loaded,
    Ready,
    Saved,
    Started,
    packed,
)
from splitft.engines.network.faults import FaultLog
from splitft.engines.network.members import Members
from splitft.engines.network.message_order import MessageOrder, evaluation_script
from splitft.engines.network.roster import Roster
from splitft.engines.network.saving import Saving
from splitft.engines.network.transport.peers import Event
from splitft.errors import NetworkError
from splitft.job.sections import NetworkConfig
from splitft.wire.ledger import Ledger
from splitft.wire.messages import Activations, AdapterDown, Metrics, OptimizerState

ROUND = 3


class Wire:
    """A listener whose events a test makes."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.used_events: list[Event] = []
        self.expelled: dict[str, str] = {}
        self.sent: dict[str, list[Any]] = {}

    def send(self, name: str, payload: bytes, session: str) -> None:
        self.sent.setdefault(name, []).append(WIRE.decode(payload))

    def used(self, event: Event) -> None:
        self.used_events.append(event)

    def expel(self, name: str, reason: str) -> None:
        self.expelled[name] = reason

    def say(self, name: str, *messages: Any) -> list[Event]:
        events = [Event("said", name, f"session of {name}", packed(message)) for message in messages]
        for event in events:
            self.events.put(event)
        return events


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def said() -> list[str]:
    """The lines that the server prints."""
    return []


@pytest.fixture
def members(wire: Wire, said: list[str], tmp_path: Path) -> Members:
    roster = Roster(["anna", "bert"], NetworkConfig(min_clients=1, round_seconds=0.2))
    channel = MagicMock()
    channel.pack = lambda message: message
    made = Members(
        roster, wire, Ledger(), MagicMock(), MagicMock(), lambda name, message: message,  # type: ignore[arg-type]
        {"anna": channel, "bert": channel}, said.append, FaultLog(tmp_path / "faults.log", said.append),
    )  # fmt: skip
    for name in ("anna", "bert"):
        wire.events.put(Event("joined", name, f"session of {name}"))
        wire.say(name, Ready(20, 4), Loaded(0, True))
    made.pump()
    assert roster.there() == ["anna", "bert"]
    return made


def adapters(*names: str) -> dict[str, AdapterDown]:
    return {name: AdapterDown(ROUND, 1, (), (), ()) for name in names}


def test_messages_that_nobody_asked_for_are_not_used_before_the_next_phase(
    wire: Wire, members: Members
) -> None:
    flood = wire.say("anna", *[Held(1)] * 10)
    members.pump()
    assert not [event for event in flood if event in wire.used_events]
    wire.say("bert", Held(ROUND))
    HandOut(members, adapters("bert"), False).run()
    assert [event for event in flood if event in wire.used_events] == flood
    assert not wire.expelled


def test_an_answer_counts_for_the_hand_out_of_its_round(wire: Wire, members: Members) -> None:
    wire.say("anna", Held(ROUND - 1))  # of an earlier one
    wire.say("bert", Held(ROUND))
    phase = HandOut(members, adapters("anna", "bert"), False)
    phase.run()  # without anna, who is late
    assert phase.awaits("anna") and not phase.awaits("bert")


def test_a_client_evaluates_once(wire: Wire, members: Members) -> None:
    job = MagicMock(
        splits_model=False, labels="server", per_device_eval_batch_size=2, evaluates_at_server=False
    )
    row = torch.tensor([1.0, 0.0])
    metrics = [Metrics(ROUND, nll, 1.0, 1, 1.0, 2, row, row, row) for nll in (1.0, 2.0)]
    part = HeldOutPart(4, True)
    wire.say("anna", metrics[0])  # before it has begun: of another evaluation
    wire.say("anna", Started(ROUND, EVALUATION), *metrics, Evaluated(ROUND))
    wire.say("bert", Started(ROUND, EVALUATION), metrics[0], Started(ROUND, EVALUATION))
    came = list(Evaluation(members, job, ["anna", "bert"], ROUND, lambda name: part).run())
    sums = [(name, m.nll) for each in came for name, m in each.items() if isinstance(m, Metrics)]
    assert sums == [("anna", 1.0), ("anna", 2.0), ("bert", 1.0)]
    assert "Started came in the middle" in wire.expelled["bert"]
    members.worker.forget_metrics.assert_called_once_with("bert")  # type: ignore[attr-defined]


def test_a_client_that_has_not_saved_starts_from_zero(wire: Wire, members: Members) -> None:
    """One that is slow, and still answers to what the others went on without, saves like all others."""
    wire.say("anna", Held(ROUND), Started(ROUND, EVALUATION), Evaluated(ROUND), Saved(ROUND))
    Saving(members, ROUND).run()
    anna, bert = members.roster["anna"], members.roster["bert"]
    assert (anna.done, anna.exact) == (ROUND, True)
    assert (bert.done, bert.exact) == (0, False)
    assert not wire.expelled


def test_after_the_last_round_a_client_that_is_away_is_waited_for_no_longer_than_stated(
    wire: Wire, members: Members
) -> None:
    members.roster.config = NetworkConfig(rejoin_seconds=0.1)  # in a round, all clients are waited for
    wire.say("anna", Saved(ROUND))
    wire.events.put(Event("away", "bert", "session of bert"))
    Saving(members, ROUND, last=True).run()
    assert (members.roster["anna"].done, members.roster["bert"].done) == (ROUND, 0)
    assert not members.roster.given_up("bert")


def test_a_client_whose_round_ends_while_it_restores_its_state_restores_the_new_one(
    wire: Wire, members: Members
) -> None:
    """It is killed after it sent its adapters; they count while it restores the state before them."""
    members.roster["anna"].save(ROUND, exact=True)
    wire.events.put(Event("joined", "anna", "session of anna"))
    wire.say("anna", Ready(20, 4))
    members.pump()
    members.roster["anna"].finish()
    wire.say("anna", Loaded(ROUND, True))
    members.pump()
    assert members.roster.there() == ["bert"]
    wire.say("anna", Loaded(ROUND, True))
    members.pump()
    assert members.roster.there() == ["anna", "bert"]
    loads = [message for message in wire.sent["anna"] if isinstance(message, Load)]
    assert loads == [Load(0, False), Load(ROUND, False), Load(ROUND, True)]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_client_whose_steps_are_taken_back_is_as_before_them(
    restarts: bool, wire: Wire, members: Members
) -> None:
    """One that has restored its state after the steps goes back to that before, and gets its adapters."""
    anna = members.roster["anna"]
    anna.save(ROUND, exact=True)
    anna.hand_out(adapters("anna")["anna"], False)
    anna.finish()
    if restarts:
        wire.events.put(Event("joined", "anna", "session of anna"))
        wire.say("anna", Ready(20, 4), Loaded(ROUND, True))
        members.pump()
        assert wire.sent["anna"][-1] == Load(ROUND, True)
    before = len(wire.sent["anna"])
    members.take_back(["anna"])
    assert wire.sent["anna"][before:] == ([Load(ROUND, False)] if restarts else [])
    assert anna.there != restarts and not members.roster.long_away("anna")
    if restarts:
        wire.say("anna", Loaded(ROUND, True))
        members.pump()
        assert wire.sent["anna"][-1] == adapters("anna")["anna"]
    members.take_back(["anna"])
    assert anna.there and not anna.finished and anna.last is not None and not wire.expelled


def test_a_run_without_clients_ends(wire: Wire, members: Members) -> None:
    wire.say("anna", Ready(20, 4))
    wire.say("bert", Loaded(0, True))
    with pytest.raises(NetworkError, match="every client is expelled; bert: Loaded came again"):
        members.pump()
    assert wire.expelled["anna"] == "Ready came again"


def test_whatever_a_message_raises_ends_its_client_alone_and_leaves_a_traceback(
    wire: Wire, members: Members, said: list[str], tmp_path: Path
) -> None:
    def gate(name: str, message: Any) -> Any:
        if name == "anna":
            raise RuntimeError("tensors of unlike sizes")
        return message

    members.gate = gate
    wire.say("anna", OptimizerState(ROUND, (), (), ()))
    wire.say("bert", OptimizerState(ROUND, (), (), ()))
    came = HandOut(members, adapters("anna", "bert"), False).run()
    assert list(came) == ["bert"]
    assert wire.expelled == {"anna": "what it sent could not be processed (RuntimeError)"}
    assert "tensors of unlike sizes" in (tmp_path / "faults.log").read_text()
    assert [line for line in said if f"the traceback is in {tmp_path}/faults.log" in line]


@pytest.mark.parametrize("rows", [(20, 1 << 40), (1 << 62, 4)])
def test_numbers_of_rows_that_no_client_has_are_refused(
    rows: tuple[int, int], wire: Wire, members: Members
) -> None:
    wire.events.put(Event("joined", "anna", "a new session"))
    wire.events.put(Event("said", "anna", "a new session", packed(Ready(*rows))))
    members.pump()
    assert "Ready: " in wire.expelled["anna"]


@pytest.mark.parametrize(
    ("lengths", "sums", "reason"),
    [
        ((9, 9), (1.0, 1.0), ""),
        ((9,), (1.0, 1.0), "1 rows of the held-out batch 0, which has 2"),
        ((9, 9), (1.0,), "of 1 rows, not 2"),
        ((9, 9), (1.0, 10.0), "more tokens than the rows have"),
    ],
)
def test_sums_are_those_of_the_rows_asked_for(
    lengths: tuple[int, ...], sums: tuple[float, ...], reason: str
) -> None:
    job: Any = SimpleNamespace(
        splits_model=True, labels="client", per_device_eval_batch_size=2, evaluates_at_server=False
    )
    order = MessageOrder(job, evaluation_script(job, 4, HeldOutPart(4, True)), 1, train=False, in_flight=4)
    rows, row = torch.zeros(sum(lengths), 8), torch.tensor(sums)
    metrics = Metrics(1, 0.0, 0.0, int(row.sum()), 0.0, 0, row, row, row)
    with pytest.raises(ValueError, match=reason) if reason else nullcontext():
        order.checked(Activations(1, 0, 0, False, lengths, rows))
        order.answered()
        order.checked(metrics)


def test_clients_of_an_earlier_process_have_taken_part() -> None:
    """A server that is started again after the last checkpoint has nobody to wait for, and all to tell."""
    roster = Roster(["anna", "bert"], NetworkConfig())
    roster["anna"].save(3, exact=True)
    assert roster.took_part() == ["anna"] and not roster.long_away("anna")
