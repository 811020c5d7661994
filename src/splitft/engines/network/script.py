"""What a client must send next: messages come in the one order that the job gives them. (ours)"""

from __future__ import annotations

from collections.abc import Iterator

from splitft.job import Job
from splitft.messages import Activations, AdapterUp, LocalLoss, Message, Metrics, TailGradients

Line = tuple[type, int, int, bool]  # kind, step, micro-step, whether the server answers it


def training_script(job: Job) -> Iterator[Line]:
    """Yield what a client sends in its local steps."""
    whole = not job.splits_model
    for step in range(job.local_steps):
        for micro_step in range(job.gradient_accumulation_steps):
            yield LocalLoss if whole else Activations, step, micro_step, not whole
            if job.labels == "client" and not whole:
                yield TailGradients, step, micro_step, True
    yield AdapterUp, 0, 0, False


def evaluation_script(job: Job, eval_rows: int) -> Iterator[Line]:
    """Yield what a client sends of its held-out rows."""
    for start in range(0, eval_rows, job.per_device_eval_batch_size):
        if job.splits_model:
            yield Activations, start, 0, True
        if job.labels == "client" or not job.splits_model:
            yield Metrics, 0, 0, False


class Script:
    """Follows what one client sends in one turn or evaluation."""

    def __init__(self, lines: Iterator[Line], round_: int, *, train: bool) -> None:
        self._lines = lines
        self._round = round_
        self._train = train
        self._answered = True

    def check(self, message: Message) -> None:
        """Raise ValueError where a message is not the next one."""
        kind, step, micro_step, asks = next(self._lines, (type(None), 0, 0, False))
        name = type(message).__name__
        if not self._answered:
            raise ValueError(f"{name} came before the last message was answered")
        if type(message) is not kind:
            raise ValueError(f"{name} came where {kind.__name__} is next")
        if message.round != self._round:
            raise ValueError(f"{name}.round: {message.round} in round {self._round}")
        if isinstance(message, Activations) and message.train != self._train:
            raise ValueError(f"{name}.train: {message.train}")
        if not isinstance(message, AdapterUp | Metrics):
            place = message.step, getattr(message, "micro_step", 0)  # type: ignore[union-attr]
            if place != (step, micro_step):
                raise ValueError(f"{name}.step: {place} where {(step, micro_step)} is next")
        self._answered = not asks

    def answered(self) -> None:
        """The server has answered."""
        self._answered = True
