"""Bugs to plant: each takes one line out of the protocol, and the judges must find it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from simulation.disk import MemoryDisk
from splitft.common.state import State
from splitft.engines.network.control import WIRE, Load
from splitft.engines.network.members import Members
from splitft.engines.network.message_order import MessageOrder
from splitft.engines.network.training import TrunkTransaction
from splitft.engines.network.transport.delivery import Delivery, Frame, Kind
from splitft.lora.optimizer import TrainedAdapter
from splitft.wire.messages import Activations, TailGradients

Plant = Callable[[pytest.MonkeyPatch], None]


def an_ack_lost(patch: pytest.MonkeyPatch) -> None:
    """After a connection broke, pieces count as acknowledged that were sent over it."""

    def again(self: Delivery, received: int) -> list[Frame]:
        self.waiting.clear()
        return []

    patch.setattr(Delivery, "again", again)


def a_step_applied_twice(patch: pytest.MonkeyPatch) -> None:
    """A step's piece that comes again is taken again, and nobody looks whether it is the next one."""
    take = Delivery.take

    def again(self: Delivery, frame: Frame) -> bytes | None:
        if frame.kind is Kind.DATA and frame.number == self.received:
            self.received -= isinstance(WIRE.decode(bytes(frame.piece)), Activations | TailGradients)
        return take(self, frame)

    patch.setattr(Delivery, "take", again)
    patch.setattr(MessageOrder, "checked", lambda self, message: message)
    patch.setattr(MessageOrder, "answered", lambda self: None)


def a_checkpoint_before_its_flush(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint gets its name before its contents are on the disk."""
    patch.setattr(MemoryDisk, "write_flushed", MemoryDisk.write)


def a_rewind_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A client repeats its steps, and its trunk goes on from where it was."""

    def restart(self: TrunkTransaction, without: str | None = None) -> None:
        self.names = [name for name in self.names if name != without]
        self._begin()

    patch.setattr(TrunkTransaction, "restart", restart)


def a_stale_load(patch: pytest.MonkeyPatch) -> None:
    """A client that comes back is told to load the state of a round before."""
    send = Members.send

    def stale(self: Members, name: str, message: Any) -> None:
        if isinstance(message, Load) and message.done:
            message = Load(message.done - 1 if not message.finished else message.done, False)
        send(self, name, message)

    patch.setattr(Members, "send", stale)


def a_moment_not_restored(patch: pytest.MonkeyPatch) -> None:
    """A party that goes back to a state has its adapters, and an optimizer as of the start."""
    load_state = TrainedAdapter.load_state

    def without(self: TrainedAdapter, state: State, device: torch.device) -> None:
        load_state(self, {"blocks": state["blocks"], "moments": {}}, device)

    patch.setattr(TrainedAdapter, "load_state", without)


BUGS: dict[str, Plant] = {
    "an ack lost": an_ack_lost,
    "a step applied twice": a_step_applied_twice,
    "a checkpoint before its flush": a_checkpoint_before_its_flush,
    "a rewind forgotten": a_rewind_forgotten,
    "a stale Load": a_stale_load,
}
# With a model in the place of numbers there are optimizers, too.
REAL_BUGS = {**BUGS, "an optimizer moment not restored": a_moment_not_restored}
