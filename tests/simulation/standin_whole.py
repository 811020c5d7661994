"""A client with the whole model in a schedule: its losses go up, and no rows."""

from __future__ import annotations

from collections.abc import Iterator

from simulation.standin import (
    EVAL_ROWS,
    LENGTHS,
    PRIME,
    StandInClient,
    metrics,
    mix,
    step_of,
    with_rows,
)
from splitft.data.sample import HeldOutPart, batch_numbers
from splitft.wire.messages import LocalLoss, Message


class StandInWholeClient(StandInClient):
    """A `ClientRole` with numbers for a whole model."""

    def forward(self, round_: int, step: int, micro_step: int) -> Message:
        assert round_ == self.round, f"{self.name} steps in round {round_}, and was handed out {self.round}"
        self.position += len(LENGTHS)
        seen = mix(self.own, self.position, *self.values.values())
        self._gradients.append(seen)
        if micro_step + 1 == self.micro_steps:
            self.values, self.moment = step_of(self.values, self.moment, mix(*self._gradients))
            self._gradients = []
        return LocalLoss(round_, step, micro_step, seen / PRIME, LENGTHS, 3)

    def evaluate(self, round_: int, part: HeldOutPart) -> Iterator[Message]:
        for number in batch_numbers(EVAL_ROWS, part, self.settings.per_device_eval_batch_size):
            yield with_rows(metrics(round_, mix(self.own, number, *self.handed_out.values())))
