"""The events of a run, passed on to its progress bar, its callbacks and its trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from splitft.common.text import error_line
from splitft.errors import JobError
from splitft.history import RoundRecord
from splitft.job.report import ReportSettings
from splitft.job.settings import BatchSettings
from splitft.round import Observer
from splitft.running.callbacks import CALLBACKS, Callback, figures
from splitft.running.trackers.mlflow import MLflowTracker
from splitft.running.trackers.tensorboard import TensorBoardTracker
from splitft.running.trackers.trackio import TrackioTracker
from splitft.running.trackers.wandb import WandbTracker

_TRACKERS: dict[str, type[Callback]] = {
    kind.name: kind for kind in (TensorBoardTracker, WandbTracker, MLflowTracker, TrackioTracker)
}


def run_callbacks(job: ReportSettings, given: Sequence[Callback | type[Callback]]) -> list[Callback]:
    """Return the callbacks of a run: those given, those that the job names, and its trackers.

    Raises JobError where one is no `Callback`, cannot be made, or lacks its library.
    """
    made: list[Any] = [callback() if isinstance(callback, type) else callback for callback in given]
    for name in job.callbacks:
        try:
            made.append(CALLBACKS.find(name)())
        except JobError as error:
            raise JobError(f"callbacks: {error}") from None
        except Exception as error:
            raise CallbackError(f"callback {name} cannot be made: {error_line(error)}") from error
    for callback in made:
        if not isinstance(callback, Callback):
            raise JobError(f"callbacks: {callback!r} is no splitft.Callback: derive its class from that one")
    return made + [_TRACKERS[name]() for name in job.trackers]


class CallbackError(JobError):
    """A callback raised an exception: the run stops after its last whole round."""


class CallbackHandler(Observer):
    """Passes a run's events on to its progress bar and its callbacks; the run's `Observer`.

    progress: another observer, which gets every event first.
    """

    def __init__(self, job: BatchSettings, callbacks: Sequence[Callback], progress: Observer) -> None:
        self.job: Any = job  # whole, as callbacks get it
        self.callbacks = callbacks
        self.progress = progress
        self._steps = _StepLosses(job.gradient_accumulation_steps if job.micro_batches == "off" else None)
        self._begun: list[Callback] = []
        self._done = -1

    def begin(self, output_dir: Path, rounds_done: int) -> None:
        """Tell callbacks that the rounds begin."""
        self._done = rounds_done
        for callback in self.callbacks:
            self._call(callback, "on_train_begin", output_dir, rounds_done)
            self._begun.append(callback)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Tell callbacks that the run is over."""
        with self:
            for callback in list(self._begun):
                self._begun.remove(callback)
                self._call(callback, "on_train_end", summary)

    def __enter__(self) -> CallbackHandler:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Tell callbacks of a run that stops before its end, so that they close what they opened."""
        for callback in self._begun if kind else ():
            with suppress(Exception):  # what stopped the run is what its user must see
                callback.on_train_end(self.job, {"rounds": max(self._done, 0), "interrupted": True})

    def on_round_begin(self, round_: int, cuts: Mapping[str, int], cohort: Sequence[str]) -> None:
        """Pass the start of a round on."""
        self.progress.on_round_begin(round_, cuts, cohort)
        self._tell("on_round_begin", round_, dict(cuts), list(cohort))

    def on_loss(self, round_: int, step: int, client: str, loss: float) -> None:
        """Pass a micro-batch on to the progress bar, and a whole step to callbacks."""
        self.progress.on_loss(round_, step, client, loss)
        for ended in self._steps.add(round_, step, client, loss):
            self._tell("on_step_end", *ended)

    def on_evaluation(self, round_: int) -> None:
        """Pass the start of an evaluation on."""
        self.progress.on_evaluation(round_)

    def on_round(self, record: RoundRecord) -> None:
        """Pass a record on, which is not written yet."""
        for ended in self._steps.rest():
            self._tell("on_step_end", *ended)
        self.progress.on_round(record)

    def on_written(self, record: RoundRecord, output_dir: Path) -> None:
        """Tell callbacks of a round that is written."""
        self._done = record.round
        if record.perplexity is not None:
            self._tell("on_evaluate", record)
        self._tell("on_log", record.round, figures(record))
        self._tell("on_save", record, output_dir)
        self._tell("on_round_end", record)

    def _tell(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            self._call(callback, event, *arguments)

    def _call(self, callback: Callback, event: str, *arguments: Any) -> None:
        """Call a method of a callback. Raises CallbackError where it raises."""
        try:
            getattr(callback, event)(self.job, *arguments)
        except Exception as error:
            name = type(callback).__name__
            raise CallbackError(f"callback {name} failed in {event}: {error_line(error)}") from error


class _StepLosses:
    """Tells steps apart in the losses of micro-batches, each the mean of its step so far.

    count: micro-batches of a step; None: known at the next step.
    """

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._open: dict[str, tuple[int, int, float, int]] = {}

    def add(self, round_: int, step: int, client: str, loss: float) -> Iterator[tuple[int, int, str, float]]:
        """Count a micro-batch; yield what ended: round, step, client, loss."""
        known = self._open.pop(client, None)
        if known and known[:2] != (round_, step):
            yield known[0], known[1], client, known[2]
            known = None
        count = known[3] + 1 if known else 1
        if count == self._count:
            yield round_, step, client, loss
        else:
            self._open[client] = round_, step, loss, count

    def rest(self) -> Iterator[tuple[int, int, str, float]]:
        """Yield the steps that are still open at the end of a round."""
        for client, (round_, step, loss, _) in self._open.items():
            yield round_, step, client, loss
        self._open = {}
