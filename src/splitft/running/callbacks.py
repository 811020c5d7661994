"""Callbacks: pieces of a user's own that a run calls at its events, named as by transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, overload

from splitft.common.registry import Registry
from splitft.history import RoundRecord
from splitft.job import Job

# Names of a round's figures in trackers, where they differ from those of the history.
_LOGGED = {
    "loss": "train/loss",
    "train_tokens": "train/tokens",
    "perplexity": "eval/perplexity",
    "accuracy": "eval/accuracy",
    "paper_accuracy": "eval/paper_accuracy",
    "bytes_up": "bytes/up/total",
    "bytes_down": "bytes/down/total",
    "bytes_adapter_up": "bytes/up/adapter",
    "bytes_adapter_down": "bytes/down/adapter",
    "round_seconds": "time/round_seconds",
    "evaluation_seconds": "time/evaluation_seconds",
    "virtual_seconds": "time/virtual_seconds",
}


class Callback:
    """Base class of callbacks, as transformers' TrainerCallback: override the methods that you need.

    Over a network the server's process calls them. An exception stops the run after its last whole round.
    """

    def on_train_begin(self, job: Job, output_dir: Path, rounds_done: int) -> None:
        """The rounds begin. rounds_done: the last round of the run that --resume goes on with, else -1."""

    def on_round_begin(self, job: Job, round_: int, cuts: Mapping[str, int], cohort: Sequence[str]) -> None:
        """A round begins. cuts: blocks on each client. cohort: clients that train; none in round 0."""

    def on_step_end(self, job: Job, round_: int, step: int, client: str, loss: float) -> None:
        """A client took an optimizer step. step: from 0 in each round. loss: mean over the step's tokens."""

    def on_evaluate(self, job: Job, record: RoundRecord) -> None:
        """A round that was evaluated is written. record: its line of history.jsonl."""

    def on_log(self, job: Job, round_: int, logs: Mapping[str, float]) -> None:
        """The figures of a written round. logs: flat names, such as train/loss or clients/NAME/cut."""

    def on_save(self, job: Job, record: RoundRecord, output_dir: Path) -> None:
        """Adapter, history and summary of a round, and its checkpoint if any, are in output_dir."""

    def on_round_end(self, job: Job, record: RoundRecord) -> None:
        """A round is over, and written."""

    def on_train_end(self, job: Job, summary: Mapping[str, Any]) -> None:
        """The run is over. summary: as summary.json; of a run that stops, `rounds` and `interrupted`."""


MakeCallback = Callable[[], Callback]
CALLBACKS: Registry[MakeCallback] = Registry("callback", "register_callback", {})


@overload
def register_callback(name: str, make: MakeCallback) -> MakeCallback: ...
@overload
def register_callback(name: str, make: None = None) -> Callable[[MakeCallback], MakeCallback]: ...
def register_callback(
    name: str, make: MakeCallback | None = None
) -> MakeCallback | Callable[[MakeCallback], MakeCallback]:
    """Register a callback of your own for `callbacks: [NAME]`; without `make`, a decorator for its class.

    make: the class, or whatever else returns a `Callback` when called without arguments. Over a network the
        server must register it.

    Raises JobError for an empty name, or what cannot be called.
    """
    return CALLBACKS.register(name, make)


def figures(record: RoundRecord) -> dict[str, float]:
    """Return every number of a record by a flat name; the round itself is the step.

    A slash separates levels, as in bytes/up/activations. Texts, NaN and infinity are left out.
    """
    found: dict[str, float] = {}
    for key, value in asdict(record).items():
        if key != "round":
            found |= dict(_flat(_LOGGED.get(key, key), value))
    return found


def history_row(record: RoundRecord) -> dict[str, Any]:
    """Return a record as one row of a table: its numbers and texts by the names of history.jsonl."""
    row: dict[str, Any] = {}
    for key, value in asdict(record).items():
        row |= {key: value} if isinstance(value, str | None) else dict(_flat(key, value))
    return row


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}/{key}", item)
    elif isinstance(value, int | float) and math.isfinite(value):
        yield name, value
