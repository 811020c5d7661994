"""The local cohort with its messages encoded, counted and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from splitft.engines.local import LocalCohort
from splitft.wire.ledger import Direction
from splitft.wire.messages import (
    AdapterDown,
    AdapterUp,
    HeldOut,
    Message,
    Metrics,
    OptimizerState,
    decode,
    encode,
)


class Wire(LocalCohort):
    """The local cohort with every message turned into bytes and back, counted and kept."""

    sent: list[tuple[str, str, Message, int]]  # direction, client, message, bytes

    def carry(self, direction: str, messages: Mapping[str, Any]) -> dict[str, Any]:
        carried = {}
        for name, message in messages.items():
            raw = b"".join(encode(message))
            self.sent.append((direction, name, message, len(raw)))
            carried[name] = decode(raw)
        return carried

    def receive(self, adapters: Mapping[str, AdapterDown]) -> dict[str, OptimizerState]:
        return self.carry("up", super().receive(self.carry("down", adapters)))

    def train(self, members: Sequence[str], *args: Any, **kwargs: Any) -> Iterator[dict[str, Message]]:
        for messages in super().train(members, *args, **kwargs):
            yield self.carry("up", messages)

    def evaluate(self, members: Sequence[str], *args: Any, **kwargs: Any) -> Iterator[dict[str, Message]]:
        for messages in super().evaluate(members, *args, **kwargs):
            stays = any(isinstance(message, HeldOut) for message in messages.values())
            yield messages if stays else self.carry("up", messages)

    def answer(self, replies: Mapping[str, Message]) -> dict[str, Message]:
        stay = {name: reply for name, reply in replies.items() if self.stays(reply)}
        others = {name: reply for name, reply in replies.items() if name not in stay}
        return self.carry("up", super().answer(stay | self.carry("down", others)))

    def stays(self, message: Message) -> bool:
        """Whether the server keeps a message to itself until the end of the evaluation."""
        return isinstance(message, Metrics) and self._job.evaluates_at_server

    def _carried(self, name: str, direction: Direction, message: Message) -> Message:
        arrived = super()._carried(name, direction, message)
        if isinstance(message, HeldOut) or self.stays(message):
            arrived = self.carry(direction, {name: arrived})[name]
        return arrived

    def finish(self, members: Sequence[str], round_: int) -> dict[str, AdapterUp]:
        return self.carry("up", super().finish(members, round_))


def record_messages(monkeypatch: pytest.MonkeyPatch) -> type[Wire]:
    """Have runs keep their messages in a list of this test's own."""

    class Recording(Wire):
        sent: list[tuple[str, str, Message, int]] = []  # noqa: RUF012 - one list a test

    monkeypatch.setattr("splitft.running.parties.LocalCohort", Recording)
    return Recording
