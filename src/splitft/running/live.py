"""`live.json` in a run's folder: how the run stands this second, for `splitft watch`."""

from __future__ import annotations

import json
import math
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitft.common.files import write_atomically
from splitft.common.text import error_line
from splitft.cuts.observe import Decision
from splitft.errors import DivergedError, OutputError
from splitft.history import RoundRecord
from splitft.job.settings import FederationSettings
from splitft.round import Observer
from splitft.running.progress import RunProgress

LIVE = "live.json"
SECONDS_BETWEEN = 1.0  # from one writing to the next
HEARTBEAT_SECONDS = 5.0  # the longest time between two, also where nothing changes
MOST_NOTICES = 50
MOST_MOVES, MOST_TOLD = 40, 16  # moves of a decision that are told; clients up to which all are
_NEWEST = 0.3  # weight of the newest step in a client's rate


@dataclass
class Notices:
    """The last notices of a run, each with its time. show: gets them as they come."""

    show: Callable[[str], None] = lambda text: None
    last: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=MOST_NOTICES))

    def __call__(self, text: str) -> None:
        """Keep a notice, and show it."""
        self.last.append((time.time(), text))
        self.show(text)


@dataclass
class ClientNow:
    """A client's last optimizer step. steps_per_second: None before its second one."""

    round: int
    step: int  # from 0 in each round
    loss: float
    at: float  # seconds since 1970
    steps_per_second: float | None = None


class LiveFile(Observer):
    """Writes `live.json` while a run is under way; an observer that passes its events on.

    A thread of its own writes, at most once a second: a step costs the run a note in memory. Where the file
    cannot be written, the run goes on without it.
    """

    def __init__(
        self,
        folder: Path,
        job: FederationSettings,
        names: Sequence[str],
        blocks: int,
        progress: RunProgress,
        notices: Notices,
        decisions: Callable[[], Sequence[Decision]],
    ) -> None:
        """Args: blocks: of the model. progress: gets every event first; it knows bytes and time left.

        decisions: all of the cut policy so far; the last one is written down with its round's record only.
        """
        self._path, self._job, self._progress, self._notices = folder / LIVE, job, progress, notices
        self._decisions = decisions
        self._mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
        self._started = time.time()
        self._fixed = {"process": os.getpid(), "names": list(names), "blocks": blocks}
        self._round: dict[str, Any] = {"phase": "starting", "round": None, "cohort": [], "cuts": {}}
        self._clients: dict[str, ClientNow] = {}
        self._tokens: dict[str, float] = {}  # of a step of each client, in the last round that it trained in
        self._end: dict[str, str] = {}
        self._changed, self._over = True, threading.Event()
        self._thread = threading.Thread(target=self._run, name="splitft-live", daemon=True)

    def __enter__(self) -> LiveFile:
        return self

    def begin(self) -> None:
        """Begin to write: nothing of a run that is refused changes its folder."""
        self._write()
        self._thread.start()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Write how the run ended."""
        if not self._thread.is_alive():
            return
        self._over.set()
        self._thread.join()
        phase = "done" if error is None else "diverged" if isinstance(error, DivergedError) else "stopped"
        told = error_line(error) if isinstance(error, Exception) else "interrupted" if error else ""
        self._round["phase"], self._end = phase, {"reason": told}
        self._write()

    def on_round_begin(self, round_: int, cuts: Mapping[str, int], cohort: Sequence[str]) -> None:
        """Note the start of a round."""
        self._progress.on_round_begin(round_, cuts, cohort)
        made = self._decisions()[-1:]
        self._round = {
            "phase": "training", "round": round_, "cohort": list(cohort), "cuts": dict(cuts),
            "decision": _told(made[0]) if made and made[0].round == round_ else None,
        }  # fmt: skip
        self._changed = True

    def on_loss(self, round_: int, step: int, client: str, loss: float) -> None:
        """Note one micro-batch of a client, and its rate with the first one of each further step."""
        self._progress.on_loss(round_, step, client, loss)
        last, now = self._clients.get(client), time.time()
        if last is not None and (last.round, last.step) == (round_, step):
            last.loss, last.at = loss, now
        else:
            rate = None
            if last is not None and last.round == round_:
                new = 1.0 / max(1e-6, now - last.at)
                old = last.steps_per_second
                rate = new if old is None else _NEWEST * new + (1 - _NEWEST) * old
            elif last is not None:
                rate = last.steps_per_second
            self._clients[client] = ClientNow(round_, step, loss, now, rate)
        self._changed = True

    def on_evaluation(self, round_: int) -> None:
        """Note the start of an evaluation."""
        self._progress.on_evaluation(round_)
        self._round = {**self._round, "phase": "evaluating", "round": round_}
        self._changed = True

    def on_round(self, record: RoundRecord) -> None:
        """Note the end of a round."""
        self._progress.on_round(record)
        self._round = {**self._round, "phase": "between rounds"}
        steps = max(1, self._job.local_steps)
        for name, client in record.clients.items():
            if client.train_tokens:
                self._tokens[name] = client.train_tokens / steps
        self._changed = True

    def _run(self) -> None:
        written = time.monotonic()
        while not self._over.wait(SECONDS_BETWEEN):
            if self._changed or time.monotonic() - written > HEARTBEAT_SECONDS:
                self._write()
                written = time.monotonic()

    def _write(self) -> None:
        self._changed = False
        try:
            text = json.dumps(self._now(), ensure_ascii=False, allow_nan=False)
        except RuntimeError:  # the run has put something new into a mapping just now: the next second
            self._changed = True
            return
        with suppress(OutputError):
            write_atomically(self._path, text, mode=self._mode)

    def _now(self) -> dict[str, Any]:
        """Return what the file says."""
        ledger, progress = self._progress.ledger, self._progress
        clients = {name: self._client(name, seen) for name, seen in list(self._clients.items())}
        for (way, name), count in list(ledger.clients.items()):
            if name:
                clients.setdefault(name, {})[f"bytes_{way}"] = count
        return {
            **self._fixed,
            **self._round,
            **self._end,
            "started": round(self._started, 3),
            "at": round(time.time(), 3),
            "rounds": self._job.rounds,
            "steps": self._job.local_steps,
            "tokens_per_second": _finite(progress.tokens_per_second, 1),
            "seconds_left": _finite(progress.seconds_left(), 1),
            "waiting_for": self._waited_for(),
            "bytes": ledger.by_kind(),
            "clients": clients,
            "notices": [[round(at, 3), text] for at, text in list(self._notices.last)],
        }

    def _client(self, name: str, seen: ClientNow) -> dict[str, Any]:
        rate, tokens = seen.steps_per_second, self._tokens.get(name)
        return {
            "round": seen.round,
            "step": seen.step,
            "loss": _finite(seen.loss, 4),
            "at": round(seen.at, 3),
            "steps_per_second": _finite(rate, 4),
            "tokens_per_second": None if rate is None or tokens is None else _finite(rate * tokens, 1),
        }

    def _waited_for(self) -> list[str]:
        """Return the clients of a round that have steps left, where others have none."""
        now, last = self._round, self._job.local_steps - 1
        if now["phase"] != "training":
            return []
        seen = {name: self._clients.get(name) for name in now["cohort"]}
        left = [n for n, c in seen.items() if c is None or c.round != now["round"] or c.step < last]
        return left if len(left) < len(seen) else []


def _told(decision: Decision) -> dict[str, Any]:
    """Return a decision as its line of decisions.jsonl has it, with as many clients as a page shows."""
    before = {client.name: client.cut for client in decision.observation.clients}
    moved = [name for name, cut in decision.cuts.items() if before.get(name) != cut]
    told = list(decision.cuts) if len(decision.cuts) <= MOST_TOLD else moved[:MOST_MOVES]
    return {
        "round": decision.round,
        "policy": decision.policy,
        "observation": {"clients": [{"name": name, "cut": before.get(name)} for name in told]},
        "cuts": {name: decision.cuts[name] for name in told},
        "reasons": {name: decision.reasons.get(name, "") for name in told},
        "moved": len(moved),
        "stayed": len(decision.cuts) - len(moved),
    }


def _finite(value: float | None, digits: int) -> float | None:
    """Return a number as JSON has it: rounded, null for what is not finite."""
    return round(value, digits) if value is not None and math.isfinite(value) else None
