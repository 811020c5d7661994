"""The folder of a run, finished or not and of any process, as one plain dict that its live page shows."""

from __future__ import annotations

import json
import time
from calendar import timegm
from collections import Counter, deque
from pathlib import Path
from typing import Any

from splitft.common.levels import levels
from splitft.job.yaml import parse_yaml
from splitft.tools.watch.clients import client_rows
from splitft.tools.watch.follow import LinesFile, WholeFile
from splitft.tools.watch.parts import (
    LEVEL,
    LONGEST_NAME,
    Names,
    cuts_of,
    decision_entry,
    devices_entry,
    job_entry,
    mapping,
    number,
    privacy_entry,
    round_entry,
    rounded,
    times_entry,
    words,
)
from splitft.tools.watch.status import status_of

MOST_DECISIONS, MOST_LOG = 200, 120


class RunState:
    """The state of a run, kept up to date by `look`.

    name: as the page calls the run.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, words(name, LONGEST_NAME)
        self._live, self._members = WholeFile(path / "live.json"), WholeFile(path / "members.json")
        self._summary = WholeFile(path / "summary.json")
        self._history, self._decided = LinesFile(path / "history.jsonl"), LinesFile(path / "decisions.jsonl")
        self._audit = LinesFile(path / "audit.jsonl")
        self._job: dict[str, Any] = {}
        self._job_seen: tuple[int, int] | None = None
        self._lock: tuple[str, float] | None = None
        self._names = Names()
        self._refused: deque[dict[str, Any]] = deque(maxlen=MOST_LOG)
        self._forget()

    def _forget(self) -> None:
        """Forget the rounds: they were taken back, or were never read."""
        self._replaced = self._history.replaced, self._decided.replaced
        self._rounds: list[dict[str, Any]] = []
        self._evaluations: list[dict[str, Any]] = []
        self._decisions: deque[dict[str, Any]] = deque(maxlen=MOST_DECISIONS)
        self._bytes: dict[str, Counter[str]] = {"up": Counter(), "down": Counter()}
        self._cuts: list[int | None] = []
        self._last: dict[str, Any] = {}  # line of the history
        self._clients: dict[str, Any] = {}  # of the last line that was evaluated
        self._times: dict[str, Any] | None = None
        self._waits: Counter[int] = Counter()
        self._privacy: dict[str, float | str] = {}

    def look(self) -> bool:
        """Read what is new in the folder; return whether anything is."""
        changed = self._read_job()
        changed |= self._read_lock()
        for file in (self._live, self._members, self._summary):
            changed |= file.read()
        self._names.add(self._live.value.get("names"))
        self._names.add(self._members.value)
        rounds, decisions = self._history.read(), self._decided.read()
        if (self._history.replaced, self._decided.replaced) != self._replaced:
            # Both from their starts, so that they fit each other.
            self._history, self._decided = LinesFile(self._history.path), LinesFile(self._decided.path)
            rounds, decisions = self._history.read(), self._decided.read()
            self._forget()
        for line in rounds:
            self._add_round(line)
        for line in decisions:
            self._names.add(mapping(line.get("cuts")))
            self._decisions.append(decision_entry(line, self._names))
        refused = self._audit.read()
        self._refused.extend(refused)
        return changed or bool(rounds or decisions or refused)

    def state(self, now: float | None = None) -> dict[str, Any]:
        """Return the state as plain values, fit for JSON. now: seconds since 1970."""
        live, now = self._live.value, time.time() if now is None else now
        status = status_of(live, self._live.time, self._lock, self._summary.value, self._members.value, now)
        running = status["state"] in ("running", "silent", "waiting", "preparing")
        last = {**self._last, "clients": self._clients}
        return {
            "name": self.name,
            "path": words(str(self.path), 1000),
            "job": job_entry(self._job),
            "rounds_planned": number(self._job.get("rounds")) or number(live.get("rounds")),
            "steps": number(self._job.get("local_steps")) or number(live.get("steps")),
            "blocks": number(live.get("blocks")) or number(self._summary.value.get("blocks")),
            "tail": self._tail(),
            "from_adapter": bool(self._job.get("adapter_name_or_path")),
            "names": [words(name, LONGEST_NAME) or "?" for name in self._names.numbers],
            "devices": devices_entry(self._job, self._names),
            "status": {**status, "remote": bool(self._members.value)},
            "clients": client_rows(live, self._members.value, last, self._names, self._cuts, running),
            "waiting_for": self._waiting_for(status["state"]),
            "bytes": self._bytes_by_kind(),
            "rounds": list(self._rounds),
            "levels": [[rounded(value), rounded(width)] for value, width in levels(self._evaluations)],
            "decisions": [*self._decisions, *self._decided_now()],
            "times": self._times,
            "waits": {str(place): count for place, count in self._waits.most_common(8)},
            "privacy": self._privacy,
            "log": self._log(),
        }

    def _add_round(self, line: dict[str, Any]) -> None:
        self._names.add(mapping(line.get("clients")))
        self._names.add(mapping(line.get("cuts")))
        entry = round_entry(line, self._names, self._cuts)
        self._rounds.append(entry)
        self._cuts, self._last = cuts_of(line, self._names), line
        for way, kinds in mapping(line.get("bytes")).items():
            if way in self._bytes:
                self._bytes[way].update(
                    {words(k, 40): int(number(n) or 0) for k, n in mapping(kinds).items()}
                )
        if entry["evaluated"]:
            self._evaluations.append({key: number(line.get(key)) for key in LEVEL})
        for name, own in mapping(line.get("clients")).items():
            kept = {key: value for key, value in mapping(own).items() if value is not None}
            self._clients[name] = {**self._clients.get(name, {}), **kept}
        if (times := times_entry(line, self._names)) is not None:
            self._times = times
        if entry["waited_for"] is not None and len(self._names.numbers) > 1:
            self._waits[entry["waited_for"]] += 1
        self._privacy = privacy_entry(line) or self._privacy

    def _read_job(self) -> bool:
        path = self.path / "job.yaml"
        try:
            found = path.stat()
            if (found.st_mtime_ns, found.st_size) == self._job_seen:
                return False
            self._job_seen = found.st_mtime_ns, found.st_size
            values, _ = parse_yaml(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it is not there, or being written
            return False
        self._job = dict(mapping(values))
        if isinstance(network := self._job.get("network"), dict):
            self._names.add(network.get("clients"))
        return True

    def _read_lock(self) -> bool:
        path, before = self.path / ".lock", self._lock
        try:
            self._lock = path.read_text(encoding="utf-8", errors="replace")[:300], path.stat().st_mtime
        except OSError:
            self._lock = None
        return self._lock != before

    def _tail(self) -> int:
        """Return the blocks of the model's end that clients hold."""
        stated = number(self._job.get("tail_blocks"))
        if self._job.get("labels") != "client":
            return 0
        return 1 if stated is None else int(stated)

    def _bytes_by_kind(self) -> dict[str, dict[str, int]]:
        """Return {way: {kind: bytes}}, of this second where the live file has them."""
        live = mapping(self._live.value.get("bytes"))
        found: dict[str, dict[str, int]] = {}
        for way, counts in self._bytes.items():
            now = {words(k, 40): int(number(n) or 0) for k, n in mapping(live.get(way)).items()}
            found[way] = now if sum(now.values()) >= sum(counts.values()) else dict(counts)
        return found

    def _waiting_for(self, state: str) -> list[int]:
        """Return the clients that a run over a network waits for now."""
        live, members = self._live.value, self._members.value
        standings = {name: mapping(member).get("standing") for name, member in members.items()}
        if state == "waiting":
            late = [
                name for name, standing in standings.items() if standing in ("invited", "not ready", "away")
            ]
        elif state == "running" and members:
            cohort, left = live.get("cohort"), live.get("waiting_for")
            asked = cohort if isinstance(cohort, list) and live.get("phase") == "training" else list(members)
            late = [name for name in asked if isinstance(name, str) and standings.get(name) == "away"]
            late += [name for name in left if name not in late] if isinstance(left, list) else []
        else:
            return []
        return [place for name in late if (place := self._names.of(name)) is not None]

    def _decided_now(self) -> list[dict[str, Any]]:
        """Return the decision for the round that is under way, which is not recorded yet."""
        line = mapping(self._live.value.get("decision"))
        last = self._decisions[-1]["round"] if self._decisions else 0
        return [decision_entry(line, self._names)] if (number(line.get("round")) or 0) > last else []

    def _log(self) -> list[dict[str, Any]]:
        """Return the last notices and refusals, the newest last."""
        lines = []
        notices = self._live.value.get("notices")
        for notice in notices if isinstance(notices, list) else ():
            if isinstance(notice, list) and len(notice) == 2:
                lines.append({"at": number(notice[0]), "text": words(notice[1])})
        for line in self._refused:
            times = f" ({line['count']} times)" if number(line.get("count")) else ""
            name, address = words(line.get("name"), 80), words(line.get("address"), 80)
            said = f"refused {name or 'a connection'} from {address}"
            at = _seconds(line.get("time"))
            lines.append({"at": at, "text": f"{said}: {words(line.get('refused'))}{times}"})
        for file in (self._history, self._decided):
            if file.damaged:
                lines.append(
                    {"at": None, "text": f"{file.path.name}: {file.damaged} damaged lines passed over"}
                )
        return sorted(lines, key=lambda line: line["at"] or 0.0)[-MOST_LOG:]


def _seconds(text: Any) -> float | None:
    """Return the seconds since 1970 of a time as `audit.jsonl` has it."""
    try:
        return float(timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except (TypeError, ValueError, OverflowError):
        return None


def encoded(value: Any) -> bytes:
    """Return values as compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
