"""Figures of a server's run: of its records, its ledger, its clients' standing, and `live.json`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from splitft.engines.network.ending import RESUME, STEPS
from splitft.engines.network.membership import Standing, standing
from splitft.engines.network.orders import Orders
from splitft.engines.network.transport.admission import AuditLog
from splitft.history import RoundRecord
from splitft.job.settings import FederationSettings
from splitft.running.callbacks import Callback
from splitft.running.folder import HISTORY
from splitft.running.live import LIVE
from splitft.running.plane.figures import MOST_NAMED, Figures
from splitft.wire.ledger import Ledger

BYTES = "Bytes of messages, by direction (up: from clients) and kind, as the ledger counts them."
CLIENT_BYTES = "Bytes of one client's messages, by direction."
PHASES = ("starting", "training", "evaluating", "between rounds", "done", "diverged", "stopped")


@dataclass(frozen=True)
class RoundSums:
    """What the rounds of a run came to so far. evaluated: the last record with a perplexity."""

    last: RoundRecord | None = None
    evaluated: RoundRecord | None = None
    tokens: int = 0
    training_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    steps: Mapping[str, int] = field(default_factory=dict)  # of each client

    def plus(self, record: RoundRecord, local_steps: int) -> RoundSums:
        """Return the sums with one more round."""
        trained = {name for name, own in record.clients.items() if own.train_tokens}
        return replace(
            self,
            last=record,
            evaluated=self.evaluated if record.perplexity is None else record,
            tokens=self.tokens + record.train_tokens,
            training_seconds=self.training_seconds + record.round_seconds,
            evaluation_seconds=self.evaluation_seconds + record.evaluation_seconds,
            steps={n: self.steps.get(n, 0) + local_steps * (n in trained) for n in {*self.steps, *trained}},
        )


class ServerMetrics(Callback):
    """Tells these figures; a round costs the run the sum of its record, a step nothing."""

    def __init__(self, job: FederationSettings, ledger: Ledger, orders: Orders, audit: AuditLog) -> None:
        self._job, self._ledger, self._orders, self._audit = job, ledger, orders, audit
        self._folder: Path | None = None
        self._sums = RoundSums()
        self._resumes = 0
        self._most_steps: dict[str, int] = {}  # that were told: a round that begins anew takes none back

    def on_train_begin(self, job: Any, output_dir: Path, rounds_done: int) -> None:
        """Take up the rounds before a checkpoint."""
        sums = RoundSums()
        for line in _whole_lines(output_dir / HISTORY) if rounds_done >= 0 else ():
            record = RoundRecord.from_json(line)
            sums = sums.plus(record, self._job.local_steps) if record.round <= rounds_done else sums
        self._resumes = sum(f'"event": "{RESUME}"' in line for line in _whole_lines(output_dir / STEPS))
        self._folder, self._sums = output_dir, sums

    def on_round_end(self, job: Any, record: RoundRecord) -> None:
        """Add a round."""
        self._sums = self._sums.plus(record, self._job.local_steps)

    def tell(self, figures: Figures) -> None:
        """Tell the figures as they are now."""
        live = self._live()
        self._tell_rounds(figures, live)
        self._tell_clients(figures, live)
        for way, kinds in self._ledger.by_kind().items():
            for kind, count in kinds.items():
                figures.counter("transferred_bytes", BYTES, count, direction=way, kind=kind)
        told = "Connections and clients that were refused (audit.jsonl)."
        figures.counter("refusals", told, self._audit.total())
        told = "1 while the operator has the run wait before its next round."
        figures.gauge("paused", told, float(self._orders.paused))
        figures.gauge("accelerator_memory_bytes", "Memory of tensors on the GPU.", _accelerator_memory())

    def _tell_rounds(self, figures: Figures, live: Mapping[str, Any]) -> None:
        sums, last, seen = self._sums, self._sums.last, self._sums.evaluated
        figures.gauge("round", "The round under way; 0: before training.", live.get("round"))
        figures.gauge("job_rounds", "Rounds of the job.", self._job.rounds)
        figures.counter("rounds", "Rounds that are complete.", last.round if last else 0)
        told = "Times that the run went on from a checkpoint: a restart, or a round that began anew."
        figures.counter("resumes", told, self._resumes)
        for phase in PHASES:
            now = float(live.get("phase") == phase)
            figures.gauge("phase", "1 for the phase of the run.", now, phase=phase)
        told = "Mean training loss of the last round's tokens."
        figures.gauge("loss", told, last.loss if last else None)
        told = "Perplexity of held-out tokens, as last evaluated."
        figures.gauge("perplexity", told, _of(seen, "perplexity"))
        told = "Share of held-out next tokens predicted right, as last evaluated."
        figures.gauge("accuracy_ratio", told, _of(seen, "accuracy"))
        figures.gauge("epsilon", "Differential privacy spent, of the client with most.", _of(last, "epsilon"))
        figures.counter("train_tokens", "Tokens trained on in complete rounds.", sums.tokens)
        told = "Seconds of the last round, by phase."
        figures.gauge("round_duration_seconds", told, _of(last, "round_seconds"), phase="training")
        figures.gauge("round_duration_seconds", told, _of(last, "evaluation_seconds"), phase="evaluation")
        told = "Seconds of all complete rounds, by phase."
        figures.counter("duration_seconds", told, sums.training_seconds, phase="training")
        figures.counter("duration_seconds", told, sums.evaluation_seconds, phase="evaluation")
        figures.gauge("left_seconds", "Predicted seconds to the end of the run.", live.get("seconds_left"))
        figures.gauge("tokens_per_second", "Tokens trained on in a second.", live.get("tokens_per_second"))

    def _tell_clients(self, figures: Figures, live: Mapping[str, Any]) -> None:
        roster, waited = self._orders.roster, live.get("waiting_for", ())
        standings = Counter(standing(member) for member in roster.values())
        for kind in get_args(Standing):
            figures.gauge("clients", "Clients by standing (members.json).", standings[kind], state=kind)
        told = "Clients of the round that have local steps left, where others have none."
        figures.gauge("waited_for_clients", told, len(waited))
        steps = self._steps(live)
        figures.counter("steps", "Local steps that clients have taken.", sum(steps.values()))
        if len(roster) > MOST_NAMED:
            return
        last = self._sums.last
        for name in roster:
            own = last.clients.get(name) if last else None
            seen = self._sums.evaluated.clients.get(name) if self._sums.evaluated else None
            figures.counter("client_steps", "Local steps of one client.", steps.get(name, 0), client=name)
            told = "1 for a client that is waited for (splitft_waited_for_clients)."
            figures.gauge("client_waited_for", told, float(name in waited), client=name)
            told = "Mean training loss of one client in the last round."
            figures.gauge("client_loss", told, own.loss if own else None, client=name)
            told = "Perplexity of one client's held-out tokens, as last evaluated."
            figures.gauge("client_perplexity", told, seen.perplexity if seen else None, client=name)
            told = "Differential privacy spent by one client."
            figures.gauge("client_epsilon", told, own.epsilon if own else None, client=name)
            for way in ("up", "down"):
                count = self._ledger.clients[way, name]
                figures.counter("client_transferred_bytes", CLIENT_BYTES, count, client=name, direction=way)

    def _steps(self, live: Mapping[str, Any]) -> dict[str, int]:
        """Return the steps of each client, with those of the round under way as far as they were seen."""
        done, cohort = self._sums.last.round if self._sums.last else 0, live.get("cohort", ())
        now = dict(self._sums.steps)
        for name, seen in live.get("clients", {}).items():
            if name in cohort and seen.get("round") == live["round"] > done:
                now[name] = now.get(name, 0) + seen["step"] + 1
        for name, count in now.items():
            self._most_steps[name] = max(count, self._most_steps.get(name, 0))
        return dict(self._most_steps)

    def _live(self) -> dict[str, Any]:
        """Return what `live.json` says; empty before there is one of this process."""
        if self._folder is not None:
            with suppress(OSError, ValueError):
                live: dict[str, Any] = json.loads((self._folder / LIVE).read_text(encoding="utf-8"))
                if live["process"] == os.getpid():
                    return live
        return {}


def _of(record: RoundRecord | None, name: str) -> float | None:
    value: float | None = getattr(record, name, None)
    return value


def _whole_lines(path: Path) -> Sequence[str]:
    """Return the lines of a file, but for one at the end that is torn."""
    if not path.exists():
        return []
    lines: Iterable[str] = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and line.strip()]


def _accelerator_memory() -> float | None:
    """Return the bytes of tensors on the GPU, None where there is none in use."""
    import torch

    return float(torch.cuda.memory_allocated()) if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
