"""Progress of a comparison: live on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from splitft.running.progress import clock, number
from splitft.tools.compare.processes import Task

SECONDS_BETWEEN_LINES = 60.0


@dataclass
class Advance:
    """How far one run is. records: evaluation before training and rounds, done and in all."""

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


class CompareProgress:
    """Shows how many runs are done, the time left, and the round and perplexity of those that go on.

    advances: of every run of the comparison, by name, those that were finished before included; labels: what
    a person calls each run. A `Watcher` of splitft.tools.compare.processes.
    """

    def __init__(
        self, advances: Mapping[str, Advance], labels: Mapping[str, str], parallel: int, console: Console
    ) -> None:
        self.advances = dict(advances)
        self.labels = labels
        self.parallel = parallel
        self.console = console
        self._sizes: dict[str, int] = {}
        self._around: list[float] = []  # seconds of the runs that ended well, outside their rounds
        self._ended = {name for name, advance in advances.items() if advance.done >= advance.total}
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[status]}"),
            console=console, transient=True,
        )  # fmt: skip
        self._all = self._bar.add_task(
            "[bold]runs", total=len(advances), completed=len(self._ended), status=""
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> CompareProgress:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_start(self, task: Task) -> None:
        """A run was started."""
        if self.console.is_terminal:
            self._bars[task.name] = self._bar.add_task(
                self.labels[task.name], total=self.advances[task.name].total, status="starting"
            )
        else:
            self._print(f"started  {self.labels[task.name]}")

    def on_end(self, task: Task, code: int, seconds: float) -> None:
        """A run ended; a failed one counts as no work left."""
        self._read(task)
        advance = self.advances[task.name]
        if code:
            advance.total = advance.done
        else:
            self._around.append(seconds - advance.seconds)
        self._ended.add(task.name)
        if (bar := self._bars.pop(task.name, None)) is not None:
            self._bar.remove_task(bar)
        how = f"perplexity {number(advance.perplexity, 2)}" if not code else f"failed: {task.log}"
        word = "failed   " if code else "finished "
        self._print(f"{word}{self.labels[task.name]}  {how}  {clock(seconds)}  ({self._overall()})")

    def on_look(self, running: Sequence[Task]) -> None:
        """Show what goes on."""
        for task in running:
            self._read(task)
        if self.console.is_terminal:
            self._bar.update(self._all, completed=len(self._ended), status=self._overall())
            for task in running:
                advance = self.advances[task.name]
                self._bar.update(self._bars[task.name], completed=advance.done, status=round_text(advance))
        elif running and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            shown = [f"{self.labels[t.name]}: {round_text(self.advances[t.name])}" for t in running]
            self._print("; ".join([*shown, self._overall()]))

    def _overall(self) -> str:
        around = sum(self._around) / max(1, len(self._around))
        left = seconds_left(list(self.advances.values()), self.parallel, around)
        text = f"{len(self._ended)} of {len(self.advances)} runs done"
        return text if left is None or left < 1 else f"{text}, about {clock(left)} left"

    def _read(self, task: Task) -> None:
        history = task.folder / "history.jsonl"
        size = history.stat().st_size if history.is_file() else 0
        if size != self._sizes.get(task.name):
            self._sizes[task.name] = size
            self.advances[task.name] = read_advance(history, self.advances[task.name].total)

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._last_line = time.monotonic()


def round_text(advance: Advance) -> str:
    """Return how far a run is, in words."""
    if not advance.done:
        return "starting"
    text = f"round {advance.done - 1}/{advance.total - 1}"
    return text if advance.perplexity is None else f"{text}  perplexity {advance.perplexity:.2f}"
