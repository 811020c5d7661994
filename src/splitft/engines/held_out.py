"""Held-out rows at the server's end of an engine: the samples' sizes, and ids that came to stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from splitft.common.state import State
from splitft.data.estimates import HeldOutRows
from splitft.data.sample import HeldOutPart, batch_numbers, sample_rows
from splitft.job.settings import EvaluationSettings
from splitft.server.answers import joined
from splitft.wire.messages import HeldOut, Message, Metrics


class HeldOutSamples:
    """The held-out rows of all clients.

    Args:
        rows: Returns the number of held-out rows of each client that is known.
    """

    def __init__(self, settings: EvaluationSettings, rows: Callable[[], Mapping[str, int]]) -> None:
        self._settings = settings
        self._rows = rows
        self._samples: dict[str, int] = {}  # rows of each client's sample, from its first evaluation on
        self._ids: dict[str, list[HeldOut]] = {}  # what came of each client, batch by batch
        self._sums: dict[str, list[Metrics]] = {}  # of the batches that the server has evaluated

    def part(self, name: str, *, whole: bool) -> HeldOutPart:
        """Return the rows of a client's next evaluation, and how many batches of them the server has."""
        if name not in self._samples:
            self._samples[name] = sample_rows(self._settings, name, self._rows())
        return HeldOutPart(self._samples[name], whole, len(self._ids.get(name, ())))

    def lacking(self, name: str, *, whole: bool) -> bool:
        """Whether a client has to send or to compute anything in an evaluation."""
        part = self.part(name, whole=whole)
        size = self._settings.per_device_eval_batch_size
        return not self._settings.evaluates_at_server or bool(batch_numbers(self._rows()[name], part, size))

    def keep(self, name: str, message: HeldOut) -> None:
        """Keep a batch of ids."""
        self._ids.setdefault(name, []).append(message)

    def kept(self, name: str, round_: int, *, whole: bool) -> list[HeldOut]:
        """Return the batches of an evaluation that the server makes by itself; empty before all have come."""
        part = replace(self.part(name, whole=whole), have=0)
        count = len(batch_numbers(self._rows()[name], part, self._settings.per_device_eval_batch_size))
        kept = self._ids.get(name, [])[:count]
        return [replace(batch, round=round_) for batch in kept] if len(kept) == count else []

    def first_batches(self, names: Sequence[str]) -> dict[str, HeldOut]:
        """Return the first batch of ids of each of these clients, of whom some are kept."""
        return {name: self._ids[name][0] for name in names if self._ids.get(name)}

    def without_sums(self, replies: Mapping[str, Message]) -> dict[str, Message]:
        """Return the server's replies to what clients sent; take in those to the batches kept here."""
        if not self._settings.evaluates_at_server:
            return dict(replies)
        for name, reply in replies.items():
            if isinstance(reply, Metrics):
                self._sums.setdefault(name, []).append(reply)
        return {name: reply for name, reply in replies.items() if not isinstance(reply, Metrics)}

    def take_sums(self, name: str) -> Metrics | None:
        """Return the sums over a client's rows, for the client; None where the server evaluated none."""
        parts = self._sums.pop(name, [])
        return joined(parts) if parts else None

    def rows(self) -> dict[str, HeldOutRows]:
        """Return the numbers of each client's held-out rows."""
        known = self._rows()
        return {name: HeldOutRows(count, known[name]) for name, count in self._samples.items()}

    def state(self) -> State:
        """Return the samples' sizes and how much came of each client; the ids themselves are not written."""
        return {
            "samples": dict(self._samples),
            "batches": {name: len(batches) for name, batches in self._ids.items()},
        }

    def load_state(self, state: State) -> None:
        """Restore a state returned by `state()`, without ids."""
        self._samples = {name: int(count) for name, count in state["samples"].items()}
        self._ids.clear()
        self._sums.clear()
