"""Progress of a run: live on a terminal, a line now and then elsewhere; tables of rounds and clients."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.table import Column, Table

from splitft.common.levels import levels
from splitft.common.notebook import NotebookConsole, NotebookLine
from splitft.common.notices import Notice
from splitft.common.tables import make_table
from splitft.common.text import first_few
from splitft.history import ClientRecord, RoundRecord
from splitft.job.settings import FederationSettings
from splitft.round import Observer
from splitft.wire.ledger import Ledger

SECONDS_BETWEEN_LINES = 30.0
WIDE = 115  # columns of a bar with tokens/s and bytes beside it
BARS = 80  # columns from which on there is a bar
MOST_NAMED = 4  # moves of cuts, and clients of one move, that a line names


class LineProgress(Progress):
    """Bars with a status on a terminal; elsewhere, a line at most every `seconds`.

    room: Columns of the terminal below which the status stands without a bar.
    """

    def __init__(self, console: Console, seconds: float, style: str = "", room: int = BARS) -> None:
        rest = Column(ratio=1, no_wrap=True)  # where room lacks, the end of the status is cut off, no heading
        columns: list[ProgressColumn] = [
            TextColumn(style + "{task.description}"), *([BarColumn(24)] if console.width >= room else []),
            TextColumn("{task.fields[status]}", table_column=rest),
        ]  # fmt: skip
        super().__init__(
            *columns, console=console, transient=True, disable=not console.is_terminal, expand=True
        )
        self._notebook = NotebookLine() if isinstance(console, NotebookConsole) else None
        self._seconds = seconds
        self._last_line = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a bar; in a notebook, the line that stands for it."""
        super().update(task_id, **changes)
        if self._notebook:
            task = self._tasks[task_id]
            share = task.completed / task.total if task.total else 0.0
            self._notebook.show(f"{task.description}  {task.fields['status']}", share)

    def stop(self) -> None:
        """Take the bars away."""
        super().stop()
        if self._notebook:
            self._notebook.clear()

    def line(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._last_line = time.monotonic()

    def line_is_due(self) -> bool:
        """Whether to print a line in place of the bars."""
        return self.disable and not self._notebook and time.monotonic() - self._last_line > self._seconds


class RunProgress(LineProgress, Observer):
    """Shows round, step, loss, tokens/s, bytes and time left; an `Observer` of round.run_rounds."""

    def __init__(
        self,
        job: FederationSettings,
        num_clients: int,
        ledger: Ledger,
        console: Console,
        rounds_done: int = -1,
    ) -> None:
        super().__init__(console, SECONDS_BETWEEN_LINES, "[bold]")
        self.job = job
        self.ledger = ledger
        members = min(job.clients_per_round or num_clients, num_clients)
        rounds = range(rounds_done + 1, job.rounds + 1)
        steps = members * job.local_steps * job.gradient_accumulation_steps
        self.total_steps = steps * sum(r > 0 for r in rounds)
        self.total_evaluations = sum(r % job.eval_every == 0 or r == job.rounds for r in rounds)
        self.steps = self.evaluations = 0
        self.tokens_per_second: float | None = None
        self.training_seconds = self.evaluation_seconds = 0.0
        self._step_of_all = members * job.gradient_accumulation_steps  # micro-batches
        self._estimated = False  # the time that the run takes has been told
        self._last_record: RoundRecord | None = None
        self._last_event = time.monotonic()
        self._bar = self.add_task("starting", total=self.total_steps, status="")

    def on_loss(self, round_: int, step: int, client: str, loss: float) -> None:
        """Count one micro-batch of one client."""
        self.steps += 1
        self.training_seconds += self._elapsed()
        if self.steps >= self._step_of_all:
            self._tell_time()
        self._show(round_, f"step {step + 1}/{self.job.local_steps}", client, f"loss {loss:.3f}")

    def on_evaluation(self, round_: int) -> None:
        """Note that an evaluation starts."""
        self.training_seconds += self._elapsed()
        self._show(round_, "evaluating")

    def on_round(self, record: RoundRecord) -> None:
        """Close a round."""
        if record.train_tokens:
            self.tokens_per_second = record.train_tokens / record.round_seconds
        if record.perplexity is not None:
            self.evaluation_seconds += self._elapsed()
            self.evaluations += 1
        if not self.disable:
            self._show(record.round)
        self.line(self._round_notice(record))
        if more := devices_line(record, self._last_record):
            self.line(f"          {more}")
        self._last_record = record

    def seconds_left(self) -> float | None:
        """Return the predicted seconds to the end of the run, None before anything was measured."""
        if not self.evaluations or not self.steps:
            return None
        evaluations = (self.total_evaluations - self.evaluations) * self.evaluation_seconds / self.evaluations
        return evaluations + (self.total_steps - self.steps) * self.training_seconds / self.steps

    def _tell_time(self) -> None:
        """Print once, as soon as an evaluation and a step of all clients are measured, what is left."""
        left = self.seconds_left()
        if not self._estimated and left is not None:
            self._estimated = True
            step = self._step_of_all * self.training_seconds / self.steps
            evaluation = self.evaluation_seconds / self.evaluations
            text = (
                f"about {clock(left)} left: {seconds_text(step)} for a step of all clients, "
                f"{seconds_text(evaluation)} for an evaluation"
            )
            self.line(Notice(text, "estimate", seconds_left=round(left, 1)))

    def _elapsed(self) -> float:
        now = time.monotonic()
        seconds, self._last_event = now - self._last_event, now
        return seconds

    def _round_notice(self, record: RoundRecord) -> Notice:
        left = self.seconds_left()
        return Notice(
            f"{round_line(record)}  {self._left()}".rstrip(),
            "round",
            round=record.round,
            rounds=self.job.rounds,
            loss=record.loss,
            perplexity=record.perplexity,
            bytes_up=record.bytes_up,
            bytes_down=record.bytes_down,
            seconds=round(record.round_seconds + record.evaluation_seconds, 3),
            seconds_left=None if left is None else round(left, 1),
        )

    def _left(self) -> str:
        left = self.seconds_left()
        return "" if left is None or left < 1 else f"{clock(left)} left"

    def _show(self, round_: int, *texts: str) -> None:
        """Show where the run is. Where room lacks, rates and the second text, a name, make it."""
        rate = f"{self.tokens_per_second:,.0f} tok/s" if self.tokens_per_second else ""
        moved = f"↑{megabytes(self.ledger.total('up'))} ↓{megabytes(self.ledger.total('down'))} MB"
        heading = f"round {round_}/{self.job.rounds}"
        cramped = self.console.width < WIDE and not self.disable
        choices = [(*texts, self._left()), (*texts[:1], *texts[2:], self._left())]
        if not (cramped and texts):
            choices.insert(0, (*texts, rate, moved, self._left()))
        lines = ["  ".join(part for part in parts if part) for parts in choices]
        room = self.console.width - len(heading) - (28 if self.console.width >= BARS else 2)
        status = next((line for line in lines if len(line) <= room or self.disable), lines[-1])
        self.update(self._bar, description=heading, completed=self.steps, status=status)
        if self.line_is_due():
            self.line(Notice(f"{heading}  {status}", "progress", round=round_))


def round_line(record: RoundRecord) -> str:
    """Return one line that says how a round went."""
    parts = [f"round {record.round:>2}" if record.round else "before  "]
    if record.loss is not None:
        parts.append(f"loss {record.loss:.3f}")
    if record.perplexity is not None:
        change = (
            f" ({change_text(record)})" if record.sampled and record.perplexity_change is not None else ""
        )
        parts.append(
            f"perplexity {with_interval(record.perplexity, record.perplexity_interval)}{change}  "
            f"accuracy {100 * (record.accuracy or 0):.1f} %"
        )
    if record.epsilon is not None:
        parts.append(f"epsilon {record.epsilon:.3g}")
    parts.append(f"↑{megabytes(record.bytes_up)} ↓{megabytes(record.bytes_down)} MB")
    parts.append(clock(record.round_seconds + record.evaluation_seconds))
    return "  ".join(parts)


def with_interval(value: float | None, interval: float | None) -> str:
    """Return a perplexity with the half-width of its interval, where all rows were not evaluated."""
    return number(value, 2) + (f" ± {interval:.2f}" if interval else "")


def change_text(record: RoundRecord) -> str:
    """Return how the perplexity changed on the same rows: "-8.2 ± 1.1 %"."""
    width = f" ± {100 * record.change_interval:.1f}" if record.change_interval else ""
    return f"{100 * (record.perplexity_change or 0.0):+.1f}{width} %"


def evaluation_lines(records: Sequence[RoundRecord], ledger: Ledger) -> list[str]:
    """Return what the tables do not say: which rows were evaluated, and what evaluation sent."""
    lines, sampled = [], [record for record in records if record.perplexity is not None and record.sampled]
    if sampled:
        rows, every = sampled[0].eval_rows, max(record.held_out_rows for record in sampled)
        lines.append(
            f"± is a 95 % interval: {len(sampled)} evaluations took a sample of {rows:,} of {every:,} "
            "held-out rows (eval_precision)"
        )
    ways = ledger.by_phase()
    training, evaluation = (sum(way[phase] for way in ways.values()) for phase in ("training", "evaluation"))
    if training + evaluation:
        share = 100 * evaluation / (training + evaluation)
        lines.append(
            f"sent up and down: training {megabytes(training)} MB, evaluation {megabytes(evaluation)} MB "
            f"({share:.1f} %), both {megabytes(training + evaluation)} MB"
        )
    return lines


def devices_line(record: RoundRecord, before: RoundRecord | None) -> str:
    """Return the virtual seconds of a round, and which cuts moved before it; empty without either."""
    parts = []
    if record.virtual_seconds is not None:
        last = f", {record.waited_for} last" if len(record.cohort) > 1 else ""
        parts.append(f"virtual {seconds_text(record.virtual_seconds)}{last}")
    if moved := moves(before.cuts if before else None, record.cuts):
        parts.append(f"cuts {moved}")
    return "; ".join(parts)


def moves(before: Mapping[str, int] | None, after: Mapping[str, int] | None) -> str:
    """Return how cuts moved: "8→1 (client-0), 8→10 (client-3, client-4)"; empty where none did."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, cut in (after or {}).items():
        if (old := (before or {}).get(name, cut)) != cut:
            groups.setdefault((old, cut), []).append(name)
    named = [f"{old}→{new} ({first_few(names, MOST_NAMED)})" for (old, new), names in groups.items()]
    return first_few(named, MOST_NAMED)


def rounds_table(records: Sequence[RoundRecord]) -> Table:
    """Return what each round came to; with devices, also its virtual seconds."""
    timed = any(record.virtual_seconds is not None for record in records)
    headings = ["round", "loss", "perplexity", "accuracy\n%", "MB\nup", "MB\ndown", "adapter\nMB", "time"]
    headings += ["virtual\ntime"] if timed else []
    made = make_table("Rounds", *headings, left=0, collapse_padding=True)
    evaluated = [r for r in records if r.perplexity is not None]
    shown = dict(zip([r.round for r in evaluated], levels(list(map(vars, evaluated))), strict=True))
    for r in records:
        cells = [
            str(r.round), number(r.loss, 3), with_interval(*shown.get(r.round, (None, None))),
            number(r.accuracy, 1, 100),
            megabytes(r.bytes_up), megabytes(r.bytes_down),
            megabytes(r.bytes_adapter_up + r.bytes_adapter_down),
            clock(r.round_seconds + r.evaluation_seconds),
        ]  # fmt: skip
        made.add_row(*cells, *([seconds_text(r.virtual_seconds)] if timed else []))
    return made


def clients_table(records: Sequence[RoundRecord]) -> Table:
    """Return what each client trained and came to; a cut that moved is shown as first→last."""
    title = "Clients: perplexity of their own held-out rows"
    headings = ("client", "cut", "tokens trained", "before", "after", "accuracy %")
    made = make_table(title, *headings, collapse_padding=True)
    evaluated = [r for r in records if r.perplexity is not None]
    for name in records[-1].clients if evaluated else ():
        seen = [r.clients[name] for r in records if name in r.clients]
        own = [r for r in evaluated if name in r.clients]  # where clients come and go, some only
        if not own:
            continue
        first, last = own[0].clients[name], own[-1].clients[name]
        trained = sum(client.train_tokens for client in seen)
        cut = "–" if last.cut is None else str(last.cut)
        made.add_row(
            name, cut if first.cut == last.cut else f"{first.cut}→{cut}", f"{trained:,}",
            number(before(first, last, own[0].sampled), 2), number(last.perplexity, 2),
            number(last.accuracy, 1, 100),
        )  # fmt: skip
    return made


def before(first: ClientRecord, last: ClientRecord, sampled: bool) -> float | None:
    """Return a client's perplexity at the start; from its last one where a sample was evaluated."""
    if not sampled or last.perplexity is None or last.perplexity_change is None:
        return first.perplexity
    return last.perplexity / (1 + last.perplexity_change)


def number(value: float | None, digits: int, factor: float = 1) -> str:
    """Return a figure, or a dash where there is none."""
    return "–" if value is None else f"{value * factor:.{digits}f}"


def megabytes(count: int) -> str:
    """Return bytes as MB (10^6) with one digit, from 10,000 MB on with none."""
    return f"{count / 1e6:.{1 if count < 1e10 else 0}f}"


def seconds_text(value: float | None) -> str:
    """Return seconds with three digits, minutes from two of them on, a dash without a value."""
    if value is None:
        return "–"
    return clock(value) if value >= 120 else f"{value:.3g} s"


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
