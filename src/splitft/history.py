"""What a run records: one line a round, and a summary at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from splitft.ledger import Ledger
from splitft.messages import Metrics


@dataclass(frozen=True)
class ClientRecord:
    """One client in one round; None where it did not train or was not evaluated."""

    cut: int
    loss: float | None
    perplexity: float | None
    accuracy: float | None
    train_tokens: int
    eval_tokens: int


@dataclass(frozen=True)
class RoundRecord:
    """One round. loss: mean over training tokens; perplexity, accuracy: over all held-out tokens.

    accuracy is the share of next tokens predicted right. Bytes are those of this round alone; bytes_up and
    bytes_down count everything, `bytes` splits them by direction and kind.
    """

    round: int
    cohort: tuple[str, ...]
    cuts: dict[str, int]
    loss: float | None
    perplexity: float | None
    accuracy: float | None
    clients: dict[str, ClientRecord]
    bytes_up: int
    bytes_down: int
    bytes_adapter_up: int
    bytes_adapter_down: int
    bytes: dict[str, dict[str, int]]
    round_seconds: float
    evaluation_seconds: float

    def to_json(self) -> str:
        """Return the line of history.jsonl."""
        return strict_json(asdict(self))


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
    cuts: Mapping[str, int],
    losses: Mapping[str, tuple[float, int]],
    metrics: Mapping[str, Metrics],
    ledger: Ledger,
    seconds: tuple[float, float],
) -> RoundRecord:
    """Put a round's sums together; ledger: bytes of this round; seconds: of training and of evaluation."""
    clients = {}
    for name, cut in cuts.items():
        loss_sum, tokens = losses.get(name, (0.0, 0))
        seen = metrics.get(name)
        clients[name] = ClientRecord(
            cut,
            loss_sum / tokens if tokens else None,
            perplexity_of([seen] if seen else []),
            accuracy_of([seen] if seen else []),
            tokens,
            seen.tokens if seen else 0,
        )
    total_tokens = sum(tokens for _, tokens in losses.values())
    return RoundRecord(
        round=round_,
        cohort=tuple(cohort),
        cuts=dict(cuts),
        loss=sum(loss for loss, _ in losses.values()) / total_tokens if total_tokens else None,
        perplexity=perplexity_of(metrics.values()),
        accuracy=accuracy_of(metrics.values()),
        clients=clients,
        bytes_up=ledger.total("up"),
        bytes_down=ledger.total("down"),
        bytes_adapter_up=ledger.rows["up", "adapter"],
        bytes_adapter_down=ledger.rows["down", "adapter"],
        bytes=ledger.by_kind(),
        round_seconds=seconds[0],
        evaluation_seconds=seconds[1],
    )


def perplexity_of(metrics: Iterable[Metrics]) -> float | None:
    """Return exp of the mean negative log-likelihood per token, None without tokens."""
    known = list(metrics)
    tokens = sum(m.tokens for m in known)
    if not tokens:
        return None
    mean = sum(m.nll for m in known) / tokens
    return math.exp(mean) if mean < 700 else math.inf


def accuracy_of(metrics: Iterable[Metrics]) -> float | None:
    """Return the share of next tokens predicted right, None without tokens."""
    known = list(metrics)
    tokens = sum(m.tokens for m in known)
    return sum(m.correct for m in known) / tokens if tokens else None


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
        }
    summary |= {name: sum(getattr(record, name) for record in records) for name in totals}
    summary["train_tokens"] = sum(c.train_tokens for record in records for c in record.clients.values())
    summary["training_seconds"] = sum(record.round_seconds for record in records)
    summary["evaluation_seconds"] = sum(record.evaluation_seconds for record in records)
    return summary
