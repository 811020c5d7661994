"""Message order: messages of a client must come in the one order that follows from the job."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from splitft.data.estimates import rows_of
from splitft.data.sample import HeldOutPart, batch_numbers
from splitft.engines.network.control import Said
from splitft.engines.network.sum_messages import Trained
from splitft.job.settings import TrainingSettings
from splitft.wire.messages import Activations, AdapterUp, HeldOut, LocalLoss, Message, Metrics, TailGradients

Line = tuple[type, int, int, int]  # kind, step, micro-step, rows of a held-out batch
EVAL_IN_FLIGHT = 4  # batches of held-out rows that a client may have on their way


def training_script(job: TrainingSettings, micro_steps: int) -> Iterator[Line]:
    """Yield the messages of a client's local steps, without answers to trunk outputs."""
    for step in range(job.local_steps):
        for micro_step in range(micro_steps):
            yield Activations if job.splits_model else LocalLoss, step, micro_step, 0
    yield Trained if job.secure_aggregation else AdapterUp, 0, 0, 0


def evaluation_script(job: TrainingSettings, eval_rows: int, part: HeldOutPart) -> Iterator[Line]:
    """Yield the messages of a client's held-out rows, without answers to trunk outputs."""
    whole_model = Metrics if not job.splits_model else Activations
    size = job.per_device_eval_batch_size
    for number in batch_numbers(eval_rows, part, size):
        end = eval_rows if number >= part.sample else min(eval_rows, part.sample)
        yield HeldOut if job.evaluates_at_server else whole_model, number, 0, min(size, end - number)


def _rows_of(message: Message) -> int:
    """Return the number of held-out rows that a message is of."""
    return rows_of(message) if isinstance(message, Metrics) else len(getattr(message, "lengths", ()))


def _check_sums(message: Metrics, lengths: tuple[int, ...]) -> None:
    """Raise ValueError where sums are not those of held-out rows of these lengths."""
    tokens = message.row_tokens
    if tokens is None or len(tokens) != len(lengths):
        raise ValueError(f"row_tokens: of {rows_of(message)} rows, not {len(lengths)}")
    if bool((tokens > tokens.new_tensor(lengths)).any()) or message.paper_tokens > sum(lengths):
        raise ValueError("row_tokens, paper_tokens: more tokens than the rows have")


@dataclass(eq=False)
class MessageOrder:
    """Follows the messages of one client in one transaction or evaluation."""

    job: TrainingSettings
    lines: Iterator[Line]
    round: int
    train: bool
    in_flight: int  # batches that the client may have on their way
    # What the server has not answered; places of trunk outputs; lengths of held-out rows at the tail.
    _asked: deque[tuple[type, int, int]] = field(default_factory=deque, init=False)
    _at_tail: deque[tuple[int, int]] = field(default_factory=deque, init=False)
    _lengths: deque[tuple[int, ...]] = field(default_factory=deque, init=False)
    _open: int = field(default=0, init=False)  # micro-batches on their way

    @property
    def _from_tail(self) -> type | None:
        """The kind of a client's answer to a trunk output."""
        at_home = self.job.labels == "client" and self.job.splits_model
        return (TailGradients if self.train else Metrics) if at_home else None

    def checked(self, message: Said) -> Message:
        """Return a message that is the next one. Raises ValueError on any other."""
        kind, name = type(message), type(message).__name__
        if not isinstance(message, Message):
            raise ValueError(f"{name} came in the middle of a round")
        # An answer to a trunk output, in the order of these.
        if message.round != self.round:
            raise ValueError(f"{name}.round: {message.round} in round {self.round}")
        if kind is self._from_tail:
            if not self._at_tail:
                raise ValueError(f"{name} came before the last message was answered")
            self._check_place(message, *self._at_tail.popleft())
            if self.train:
                self._asked.append((kind, 0, 0))
            elif isinstance(message, Metrics):
                self._open -= 1
                _check_sums(message, self._lengths.popleft())
            return message
        # A line of the script, once there is room for it.
        wanted, step, micro_step, rows = next(self.lines, (type(None), 0, 0, 0))
        if kind is not wanted:
            raise ValueError(f"{name} came where {wanted.__name__} is next")
        if self._open >= (self.in_flight if kind is Activations else 1):
            raise ValueError(f"{name} came before the last message was answered")
        self._check_place(message, step, micro_step)
        if rows and rows != (came := _rows_of(message)):
            raise ValueError(f"{name}: {came} rows of the held-out batch {step}, which has {rows}")
        if isinstance(message, Activations):
            if not self.train:
                self._lengths.append(message.lengths)
            if message.train != self.train:
                raise ValueError(f"{name}.train: {message.train}")
            self._open += 1
            self._asked.append((kind, step, micro_step))
        return message

    def finished(self, round_: int) -> None:
        """Note that a client states to have sent all. Raises ValueError where it has not."""
        wanted = next(self.lines, None)
        if round_ != self.round or wanted is not None or self._open:
            left = wanted[0].__name__ if wanted else "an answer"
            raise ValueError(f"Evaluated of round {round_} came where {left} of round {self.round} is next")

    def stays(self, round_: int) -> None:
        """Note that a client has taken all steps and keeps its adapters. Raises ValueError where not."""
        wanted = next(self.lines, None)
        if round_ != self.round or wanted is None or wanted[0] is not Trained:
            left = wanted[0].__name__ if wanted else "nothing"
            raise ValueError(f"Trained of round {round_} came where {left} of round {self.round} is next")

    def answered(self) -> None:
        """Note that the server has answered the oldest message that asks for an answer."""
        kind, step, micro_step = self._asked.popleft()
        if kind is Activations and self._from_tail is not None:
            self._at_tail.append((step, micro_step))
        else:
            self._open -= 1

    def _check_place(self, message: Message, step: int, micro_step: int) -> None:
        if isinstance(message, AdapterUp | Metrics):
            return
        place = message.step, getattr(message, "micro_step", 0)  # type: ignore[union-attr]
        if place != (step, micro_step):
            raise ValueError(f"{type(message).__name__}.step: {place} where {(step, micro_step)} is next")
