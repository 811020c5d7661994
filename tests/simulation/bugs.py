"""Bugs to plant: each takes one line out of the protocol, and the judges must find it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from simulation.disk import MemoryDisk
from splitft.engines.network.control import Load
from splitft.engines.network.members import Members
from splitft.engines.network.message_order import MessageOrder
from splitft.engines.network.training import TrunkTransaction
from splitft.engines.network.transport.delivery import Delivery, Frame, Kind

Plant = Callable[[pytest.MonkeyPatch], None]


def an_ack_lost(patch: pytest.MonkeyPatch) -> None:
    """After a connection broke, pieces count as acknowledged that were sent over it."""

    def again(self: Delivery, received: int) -> list[Frame]:
        self.waiting.clear()
        return []

    patch.setattr(Delivery, "again", again)


def a_step_applied_twice(patch: pytest.MonkeyPatch) -> None:
    """A piece that comes again is taken again, and nobody looks whether its message is the next one."""
    take = Delivery.take

    def again(self: Delivery, frame: Frame) -> bytes | None:
        if frame.kind is Kind.DATA and frame.number == self.received:
            self.received -= 1
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


BUGS: dict[str, Plant] = {
    "an ack lost": an_ack_lost,
    "a step applied twice": a_step_applied_twice,
    "a checkpoint before its flush": a_checkpoint_before_its_flush,
    "a rewind forgotten": a_rewind_forgotten,
    "a stale Load": a_stale_load,
}
