"""The record of a run: one line a round, and a summary at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitft.common.levels import levels
from splitft.data.estimates import HeldOutRows, estimate, rows_of, scaled, weight_of
from splitft.wire.ledger import Ledger
from splitft.wire.messages import Metrics

if TYPE_CHECKING:
    from splitft.devices.simulate import RoundTimes


# Figures of a function of the user's own, by name: of each client, and under None of all rows together.
OwnFigures = Mapping[str | None, Mapping[str, float]]


@dataclass(frozen=True)
class ClientRecord:
    """One client in one round; None where it did not train or was not evaluated.

    virtual: `ClientTimes` by the virtual clock.
    private_steps: Steps with differential privacy up to this round; epsilon: of them all.
    """

    cut: int | None
    loss: float | None
    perplexity: float | None
    accuracy: float | None
    paper_accuracy: float | None
    train_tokens: int
    eval_tokens: int
    virtual: dict[str, float] | None
    perplexity_change: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    private_steps: int | None = None
    epsilon: float | None = None


@dataclass(frozen=True)
class RoundRecord:
    """One round; its figures are those of this round alone.

    loss: Mean over train_tokens.
    perplexity: Over all held-out tokens, as the two accuracies; estimated where a sample was evaluated.
    accuracy: Share of next tokens predicted right.
    paper_accuracy: The paper's figure, which compares the prediction for position t + 1 with token t.
    bytes: {direction: {kind: bytes}}; bytes_up and bytes_down are its sums.
    virtual_seconds: Of training, by the virtual clock.
    waited_for: The client that finished last.
    queued_behind: {client: {other: seconds}} of waiting for the other's work or arrival; of small cohorts.
    truncation_error: {block: relative error of its product B·A at the lower rank, when last brought there}.
    eval_rows: Held-out rows that were evaluated, of held_out_rows.
    perplexity_interval: Half-width of the 95 % interval of the perplexity of all held-out rows; 0 where all
        were evaluated, None where it cannot be told.
    perplexity_change: Since the first evaluation, on the rows of both: -0.1 is a tenth less.
    change_interval: Half-width of its 95 % interval.
    accuracy_change: As perplexity_change, in shares of tokens.
    cohort: Clients that began the round; one without which it went on has no loss in it.
    metrics: {name: mean over held-out tokens} of the job's `metrics`; {eval_name: figure of the rows that
        were evaluated} of `compute_metrics`.
    epsilon: Of the client with the largest one, up to this round; None without differential privacy.
    readable: {client: {tokens, rare, guess, n}} of rounds with a reading (`--readable`), else absent: shares
        of its tokens and rare tokens that an inverter names, of those that the model guesses; n: tokens.
    """

    round: int
    cohort: tuple[str, ...]
    cuts: dict[str, int] | None
    loss: float | None
    perplexity: float | None
    accuracy: float | None
    paper_accuracy: float | None
    clients: dict[str, ClientRecord]
    train_tokens: int
    bytes_up: int
    bytes_down: int
    bytes_adapter_up: int
    bytes_adapter_down: int
    bytes: dict[str, dict[str, int]]
    round_seconds: float
    evaluation_seconds: float
    virtual_seconds: float | None
    waited_for: str | None
    queued_behind: dict[str, dict[str, float]] | None
    truncation_error: dict[int, float]
    eval_rows: int = 0
    held_out_rows: int = 0
    perplexity_interval: float | None = None
    perplexity_change: float | None = None
    change_interval: float | None = None
    accuracy_change: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    epsilon: float | None = None
    readable: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def sampled(self) -> bool:
        """Whether some held-out rows only were evaluated."""
        return self.eval_rows < self.held_out_rows

    def to_json(self) -> str:
        """Return the line of history.jsonl."""
        values = asdict(self)
        if not self.readable:
            del values["readable"]
        return strict_json(values)

    @classmethod
    def from_json(cls, line: str) -> RoundRecord:
        """Read a line that `to_json` wrote."""
        values = json.loads(line)
        return cls(**{
            **values,
            "cohort": tuple(values["cohort"]),
            "clients": {name: ClientRecord(**client) for name, client in values["clients"].items()},
            "truncation_error": {int(block): error for block, error in values["truncation_error"].items()},
        })  # fmt: skip


def strict_json(value: Any, indent: int | None = None) -> str:
    """Return JSON text; numbers that JSON does not have (NaN, infinity: the run diverged) become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_record(
    round_: int,
    cohort: Sequence[str],
    cuts: Mapping[str, int | None],
    *,
    losses: Mapping[str, tuple[float, int]],
    metrics: Mapping[str, Metrics],
    first: Mapping[str, Metrics] | None = None,
    held_out: Mapping[str, HeldOutRows] | None = None,
    own_metrics: Sequence[str] = (),
    own_figures: OwnFigures | None = None,
    spent: Mapping[str, tuple[int, float]] | None = None,
    ledger: Ledger,
    seconds: tuple[float, float],
    times: RoundTimes | None,
    truncation_errors: Mapping[int, float],
) -> RoundRecord:
    """Put a round's sums together.

    metrics, first: Sums over held-out rows in this round, and in each client's first evaluation.
    held_out: Numbers of the clients' held-out rows; None: all were evaluated.
    own_metrics: Names of the metrics beside perplexity and accuracy.
    own_figures: Further figures, as they are.
    spent: {client: (steps, ε)} of differential privacy so far.
    ledger: Bytes of this round.
    seconds: Of training and of evaluation.
    """
    # In the clients' order, never that in which they came.
    losses = {name: losses[name] for name in [*cuts, *losses] if name in losses}
    metrics = {name: metrics[name] for name in [*cuts, *metrics] if name in metrics}
    all_rows = {name: own.rows for name, own in (held_out or {}).items()}
    own_figures = own_figures or {}
    clients = {}
    for name, cut in cuts.items():
        loss_sum, tokens = losses.get(name, (0.0, 0))
        seen = [metrics[name]] if name in metrics else []
        clients[name] = ClientRecord(
            cut,
            loss_sum / tokens if tokens else None,
            *scores(seen),
            tokens,
            sum(m.tokens for m in seen),
            asdict(times.clients[name]) if times and name in times.clients else None,
            estimate({n: m for n, m in metrics.items() if n == name}, first or {}, all_rows).change,
            {**means(own_metrics, seen), **own_figures.get(name, {})},
            *(spent or {}).get(name, ()),
        )
    weights = [weight_of(own, all_rows.get(name)) for name, own in metrics.items()]
    perplexity, accuracy, paper_accuracy = scores(metrics.values(), weights)
    estimated = estimate(metrics, first or {}, all_rows)
    total_tokens = sum(tokens for _, tokens in losses.values())
    return RoundRecord(
        round=round_,
        cohort=tuple(cohort),
        cuts={name: cut for name, cut in cuts.items() if cut is not None} or None,
        loss=sum(loss for loss, _ in losses.values()) / total_tokens if total_tokens else None,
        perplexity=perplexity,
        accuracy=accuracy,
        paper_accuracy=paper_accuracy,
        clients=clients,
        train_tokens=total_tokens,
        bytes_up=ledger.total("up"),
        bytes_down=ledger.total("down"),
        bytes_adapter_up=ledger.rows["up", "adapter"],
        bytes_adapter_down=ledger.rows["down", "adapter"],
        bytes=ledger.by_kind(),
        round_seconds=seconds[0],
        evaluation_seconds=seconds[1],
        virtual_seconds=times.seconds if times else None,
        waited_for=times.waited_for if times else None,
        queued_behind=times.queued_behind if times else None,
        truncation_error=dict(truncation_errors),
        eval_rows=sum(rows_of(own) for own in metrics.values()),
        held_out_rows=sum(all_rows.get(name, rows_of(own)) for name, own in metrics.items()),
        perplexity_interval=scaled(perplexity, estimated.interval),
        perplexity_change=estimated.change,
        change_interval=estimated.change_interval,
        accuracy_change=estimated.accuracy_change,
        metrics={**means(own_metrics, list(metrics.values()), weights), **own_figures.get(None, {})},
        epsilon=max((epsilon for _, epsilon in (spent or {}).values()), default=None),
    )


def means(
    names: Sequence[str], metrics: Sequence[Metrics], weights: Sequence[float] | None = None
) -> dict[str, float]:
    """Return {name: mean over held-out tokens} of the job's own metrics; empty without tokens.

    weights: of each client's sums; None: 1.
    """
    each = list(zip(metrics, weights or [1.0] * len(metrics), strict=True))
    tokens = sum(m.tokens * w for m, w in each)
    if not tokens:
        return {}
    sums = [(m.own_sums.tolist(), w) for m, w in each if m.own_sums is not None]
    return {name: sum(own[i] * w for own, w in sums) / tokens for i, name in enumerate(names)}


def scores(
    metrics: Iterable[Metrics], weights: Sequence[float] | None = None
) -> tuple[float | None, float | None, float | None]:
    """Return perplexity, accuracy and the paper's accuracy (see `RoundRecord`); None without tokens.

    weights: of each client's sums; None: 1.
    """
    known = list(metrics)
    each = list(zip(known, weights or [1.0] * len(known), strict=True))
    tokens, paper_tokens = sum(m.tokens * w for m, w in each), sum(m.paper_tokens * w for m, w in each)
    mean = sum(m.nll * w for m, w in each) / tokens if tokens else 0.0
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return (
        perplexity if tokens else None,
        sum(m.correct * w for m, w in each) / tokens if tokens else None,
        sum(m.paper_correct * w for m, w in each) / paper_tokens if paper_tokens else None,
    )


def read_history(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rounds of a run's history.jsonl."""
    lines = (run_dir / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# Keys of a summary that come from evaluations.
OF_EVALUATION = (
    "perplexity_before",
    "perplexity_before_interval",
    "perplexity",
    "perplexity_interval",
    "perplexity_change",
    "perplexity_change_interval",
    "accuracy_before",
    "accuracy",
    "paper_accuracy",
    "metrics_before",
    "metrics",
)


def summarise(records: Sequence[RoundRecord]) -> dict[str, Any]:
    """Return the run's totals: perplexity and accuracy before and after, bytes, seconds."""
    evaluated = [record for record in records if record.perplexity is not None]
    totals = ("bytes_up", "bytes_down", "bytes_adapter_up", "bytes_adapter_down")
    summary: dict[str, Any] = {"rounds": records[-1].round if records else 0}
    if evaluated:
        first, last = evaluated[0], evaluated[-1]
        assert first.perplexity is not None and last.perplexity is not None
        before, before_interval = levels([vars(first), vars(last)])[0]
        assert before is not None
        accuracy_before = first.accuracy
        if before != first.perplexity and last.accuracy is not None:
            accuracy_before = last.accuracy - (last.accuracy_change or 0.0)
        summary |= {
            "perplexity_before": before,
            "perplexity_before_interval": before_interval,
            "perplexity": last.perplexity,
            "perplexity_interval": last.perplexity_interval,
            "perplexity_change": last.perplexity / before - 1 if before else None,
            "perplexity_change_interval": last.change_interval,
            "eval_rows": last.eval_rows,
            "accuracy_before": accuracy_before,
            "accuracy": last.accuracy,
            "paper_accuracy": last.paper_accuracy,
        }
        if last.metrics:
            summary |= {"metrics_before": first.metrics, "metrics": last.metrics}
    summary |= {name: sum(getattr(record, name) for record in records) for name in totals}
    summary["train_tokens"] = sum(record.train_tokens for record in records)
    if any(record.virtual_seconds is not None for record in records):
        summary["virtual_seconds"] = sum(record.virtual_seconds or 0.0 for record in records)
    summary["training_seconds"] = sum(record.round_seconds for record in records)
    summary["evaluation_seconds"] = sum(record.evaluation_seconds for record in records)
    return summary
