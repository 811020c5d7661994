"""Progress of a comparison: live on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from splitft.running.folder import HISTORY
from splitft.running.progress import LineProgress, clock, number
from splitft.tools.compare.plan import PlannedVariant
from splitft.tools.compare.store import Store

SECONDS_BETWEEN_LINES = 60.0


@dataclass
class Advance:
    """Records of one run, done and in all: the evaluation before training, and rounds."""

    total: int
    done: int = 0
    seconds: float = 0.0
    perplexity: float | None = None


def read_advance(history: Path, total: int) -> Advance:
    """Return how far the run of this history.jsonl is; its last line may be half written."""
    advance = Advance(total)
    try:
        lines = history.read_text(encoding="utf-8").split("\n")[:-1]
    except OSError:
        return advance
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        advance.done += 1
        advance.seconds += (record.get("round_seconds") or 0.0) + (record.get("evaluation_seconds") or 0.0)
        if record.get("perplexity") is not None:
            advance.perplexity = record["perplexity"]
    return advance


def seconds_left(advances: Sequence[Advance], parallel: int, around: float = 0.0) -> float | None:
    """Return the predicted seconds to the end of all runs, None before the first round is over.

    Every round that is left counts as the mean of those that are done, whichever run they belong to. around:
    seconds of a run outside its rounds (loading, above all), counted for runs without a round yet.
    """
    done = sum(advance.done for advance in advances)
    if not done:
        return None
    mean = sum(advance.seconds for advance in advances) / done
    left = [advance for advance in advances if advance.done < advance.total]
    seconds = sum(mean * (a.total - a.done) + (0.0 if a.done else around) for a in left)
    return seconds / min(parallel, len(left)) if left else 0.0


class CompareProgress(LineProgress):
    """Shows how many runs are done, the time left, and the round and perplexity of those that go on.

    needed: all runs of the comparison, those that were finished before included.
    """

    def __init__(
        self, store: Store, needed: Mapping[str, PlannedVariant], parallel: int, console: Console
    ) -> None:
        super().__init__(console, SECONDS_BETWEEN_LINES, room=100)
        self.advances = {
            name: read_advance(store.run(name) / HISTORY, variant.job.rounds + 1)
            for name, variant in needed.items()
        }
        self.store = store
        self.labels = {name: variant.title for name, variant in needed.items()}
        self.parallel = parallel
        self._sizes: dict[str, int] = {}
        self._around: list[float] = []  # seconds of the runs that ended well, outside their rounds
        self._ended = {name for name, advance in self.advances.items() if advance.done >= advance.total}
        self._all = self.add_task("[bold]runs", total=len(needed), completed=len(self._ended), status="")
        self._bars: dict[str, TaskID] = {}

    def on_start(self, name: str) -> None:
        """A run was started."""
        label, total = self.labels[name], self.advances[name].total
        self._bars[name] = self.add_task(label, total=total, status="starting")
        if self.disable:
            self.line(f"started  {label}")

    def on_end(self, name: str, code: int, seconds: float) -> None:
        """A run ended; a failed one counts as no work left."""
        self._read(name)
        advance = self.advances[name]
        if code:
            advance.total = advance.done
        else:
            self._around.append(seconds - advance.seconds)
        self._ended.add(name)
        self.remove_task(self._bars.pop(name))
        how = f"perplexity {number(advance.perplexity, 2)}" if not code else f"failed: {self.store.log(name)}"
        word = "failed   " if code else "finished "
        self.line(f"{word}{self.labels[name]}  {how}  {clock(seconds)}  ({self._overall()})")

    def on_look(self, running: Sequence[str]) -> None:
        """Show what goes on."""
        for name in running:
            self._read(name)
            advance = self.advances[name]
            self.update(self._bars[name], completed=advance.done, status=round_text(advance))
        self.update(self._all, completed=len(self._ended), status=self._overall(""))
        if running and self.line_is_due():
            shown = [f"{self.labels[name]}: {round_text(self.advances[name])}" for name in running]
            self.line("; ".join([*shown, self._overall()]))

    def _overall(self, runs: str = " runs") -> str:
        around = sum(self._around) / max(1, len(self._around))
        left = seconds_left(list(self.advances.values()), self.parallel, around)
        text = f"{len(self._ended)} of {len(self.advances)}{runs} done"
        return text if left is None or left < 1 else f"{text}, about {clock(left)} left"

    def _read(self, name: str) -> None:
        history = self.store.run(name) / HISTORY
        size = history.stat().st_size if history.is_file() else 0
        if size != self._sizes.get(name):
            self._sizes[name] = size
            self.advances[name] = read_advance(history, self.advances[name].total)


def round_text(advance: Advance) -> str:
    """Return how far a run is, in words."""
    if not advance.done:
        return "starting"
    text = f"round {advance.done - 1}/{advance.total - 1}"
    return text if advance.perplexity is None else f"{text}  perplexity {advance.perplexity:.2f}"
