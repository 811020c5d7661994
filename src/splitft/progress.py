"""What a person sees while a run goes on: live on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from splitft.history import RoundRecord
from splitft.job import Job
from splitft.ledger import Ledger

SECONDS_BETWEEN_LINES = 30.0


class RunProgress:
    """Shows round, step, loss, tokens/s, bytes and time left; an `Observer` of round.run_rounds."""

    def __init__(self, job: Job, num_clients: int, ledger: Ledger, console: Console) -> None:
        self.job = job
        self.console = console
        self.ledger = ledger
        members = min(job.clients_per_round or num_clients, num_clients)
        self.total_steps = job.rounds * job.local_steps * members * job.gradient_accumulation_steps
        self.total_evaluations = 1 + sum(
            1 for r in range(1, job.rounds + 1) if r % job.eval_every == 0 or r == job.rounds
        )
        self.steps = self.evaluations = 0
        self.tokens_per_second: float | None = None
        self.training_seconds = self.evaluation_seconds = 0.0
        self._evaluating = False
        self._last_event = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(24), TextColumn("{task.fields[status]}"),
            console=console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("starting", total=self.total_steps, status="")

    def __enter__(self) -> RunProgress:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_loss(self, round_: int, step: int, client: str, loss: float) -> None:
        """Count one micro-batch of one client."""
        self.steps += 1
        self.training_seconds += self._elapsed()
        text = f"step {step + 1}/{self.job.local_steps}  {client}  loss {loss:.3f}"
        self._show(round_, text)

    def on_evaluation(self, round_: int) -> None:
        """Note that an evaluation starts."""
        self.training_seconds += self._elapsed()
        self._show(round_, "evaluating")

    def on_round(self, record: RoundRecord) -> None:
        """Close a round."""
        tokens = sum(client.train_tokens for client in record.clients.values())
        if tokens:
            self.tokens_per_second = tokens / record.round_seconds
        if record.perplexity is not None:
            self.evaluation_seconds += self._elapsed()
            self.evaluations += 1
        if self.console.is_terminal:
            self._show(record.round, "")
        self.console.print(f"{round_line(record)}  {self._left()}", highlight=False)
        self._last_line = time.monotonic()

    def seconds_left(self) -> float | None:
        """Return the predicted seconds to the end of the run, None before anything was measured."""
        if not self.evaluations:
            return None
        evaluations = (self.total_evaluations - self.evaluations) * self.evaluation_seconds / self.evaluations
        if not self.steps:
            return None
        return evaluations + (self.total_steps - self.steps) * self.training_seconds / self.steps

    def _elapsed(self) -> float:
        now = time.monotonic()
        seconds, self._last_event = now - self._last_event, now
        return seconds

    def _left(self) -> str:
        left = self.seconds_left()
        return "" if left is None or left < 1 else f"{clock(left)} left"

    def _show(self, round_: int, text: str) -> None:
        rate = f"{self.tokens_per_second:,.0f} tok/s" if self.tokens_per_second else ""
        moved = f"↑{megabytes(self.ledger.total('up'))} ↓{megabytes(self.ledger.total('down'))} MB"
        status = "  ".join(part for part in (text, rate, moved, self._left()) if part)
        heading = f"round {round_}/{self.job.rounds}"
        if self.console.is_terminal:
            self._bar.update(self._task, description=heading, completed=self.steps, status=status)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self.console.print(f"{heading}  {status}", highlight=False)
            self._last_line = time.monotonic()


def round_line(record: RoundRecord) -> str:
    """Return one line that says how a round went."""
    parts = [f"round {record.round:>2}" if record.round else "before  "]
    if record.loss is not None:
        parts.append(f"loss {record.loss:.3f}")
    if record.perplexity is not None:
        parts.append(f"perplexity {record.perplexity:.2f}  accuracy {100 * (record.accuracy or 0):.1f} %")
    parts.append(f"↑{megabytes(record.bytes_up)} ↓{megabytes(record.bytes_down)} MB")
    parts.append(clock(record.round_seconds + record.evaluation_seconds))
    return "  ".join(parts)


def final_tables(records: list[RoundRecord]) -> list[Table]:
    """Return the table of rounds and the table of clients."""
    rounds = Table(title="Rounds", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("round", "loss", "perplexity", "accuracy %", "MB up", "MB down", "adapter MB", "time"):
        rounds.add_column(heading, justify="right")
    for r in records:
        adapter = megabytes(r.bytes_adapter_up + r.bytes_adapter_down)
        rounds.add_row(
            str(r.round), number(r.loss, 3), number(r.perplexity, 2), number(r.accuracy, 1, 100),
            megabytes(r.bytes_up), megabytes(r.bytes_down), adapter,
            clock(r.round_seconds + r.evaluation_seconds),
        )  # fmt: skip
    title = "Clients: perplexity before and after, on their own held-out rows"
    clients = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("client", "cut", "tokens trained", "before", "after", "accuracy %"):
        clients.add_column(heading, justify="left" if heading == "client" else "right")
    evaluated = [r for r in records if r.perplexity is not None]
    for name in records[-1].clients if evaluated else ():
        first, last = evaluated[0].clients[name], evaluated[-1].clients[name]
        trained = sum(r.clients[name].train_tokens for r in records)
        clients.add_row(
            name, str(last.cut), f"{trained:,}", number(first.perplexity, 2), number(last.perplexity, 2),
            number(last.accuracy, 1, 100),
        )  # fmt: skip
    return [rounds, clients]


def number(value: float | None, digits: int, factor: float = 1) -> str:
    """Return a figure, or a dash where there is none."""
    return "–" if value is None else f"{value * factor:.{digits}f}"


def megabytes(count: int) -> str:
    """Return bytes as MB (10^6) with one digit."""
    return f"{count / 1e6:.1f}"


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
