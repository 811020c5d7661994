"""The record of a run: one line a round, and a summary at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitft.wire.ledger import Ledger
from splitft.wire.messages import Metrics

if TYPE_CHECKING:
    from splitft.devices.simulate import RoundTimes


@dataclass(frozen=True)
class ClientRecord:
    """One client in one round; None where it did not train or was not evaluated.

    virtual: `ClientTimes` by the virtual clock.
    """

    cut: int | None
    loss: float | None
    perplexity: float | None
    accuracy: float | None
    paper_accuracy: float | None
    train_tokens: int
    eval_tokens: int
    virtual: dict[str, float] | None


@dataclass(frozen=True)
class RoundRecord:
    """One round; its figures are those of this round alone.

    loss: Mean over train_tokens.
    perplexity: Over all held-out tokens, as the two accuracies.
    accuracy: Share of next tokens predicted right.
    paper_accuracy: The paper's figure, which compares the prediction for position t + 1 with token t.
    bytes: {direction: {kind: bytes}}; bytes_up and bytes_down are its sums.
    virtual_seconds: Of training, by the virtual clock.
    waited_for: The client that finished last.
    queued_behind: {client: {other: seconds}} of waiting for the other's work or arrival; of small cohorts.
    truncation_error: {block: relative error of its product B·A at the lower rank, when last brought there}.
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

    def to_json(self) -> str:
        """Return the line of history.jsonl."""
        return strict_json(asdict(self))

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
    ledger: Ledger,
    seconds: tuple[float, float],
    times: RoundTimes | None,
    truncation_errors: Mapping[int, float],
) -> RoundRecord:
    """Put a round's sums together.

    ledger: Bytes of this round.
    seconds: Of training and of evaluation.
    """
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
        )
    perplexity, accuracy, paper_accuracy = scores(metrics.values())
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
    )


def scores(metrics: Iterable[Metrics]) -> tuple[float | None, float | None, float | None]:
    """Return perplexity, accuracy and the paper's accuracy (see `RoundRecord`); None without tokens."""
    known = list(metrics)
    tokens, paper_tokens = sum(m.tokens for m in known), sum(m.paper_tokens for m in known)
    mean = sum(m.nll for m in known) / tokens if tokens else 0.0
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return (
        perplexity if tokens else None,
        sum(m.correct for m in known) / tokens if tokens else None,
        sum(m.paper_correct for m in known) / paper_tokens if paper_tokens else None,
    )


def read_history(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rounds of a run's history.jsonl."""
    lines = (run_dir / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def summarise(records: Sequence[RoundRecord]) -> dict[str, Any]:
    """Return the run's totals: perplexity and accuracy before and after, bytes, seconds."""
    evaluated = [record for record in records if record.perplexity is not None]
    totals = ("bytes_up", "bytes_down", "bytes_adapter_up", "bytes_adapter_down")
    summary: dict[str, Any] = {"rounds": records[-1].round if records else 0}
    if evaluated:
        first, last = evaluated[0], evaluated[-1]
        assert first.perplexity is not None and last.perplexity is not None
        summary |= {
            "perplexity_before": first.perplexity,
            "perplexity": last.perplexity,
            "perplexity_change": last.perplexity / first.perplexity - 1,
            "accuracy_before": first.accuracy,
            "accuracy": last.accuracy,
            "paper_accuracy": last.paper_accuracy,
        }
    summary |= {name: sum(getattr(record, name) for record in records) for name in totals}
    summary["train_tokens"] = sum(record.train_tokens for record in records)
    if any(record.virtual_seconds is not None for record in records):
        summary["virtual_seconds"] = sum(record.virtual_seconds or 0.0 for record in records)
    summary["training_seconds"] = sum(record.round_seconds for record in records)
    summary["evaluation_seconds"] = sum(record.evaluation_seconds for record in records)
    return summary
