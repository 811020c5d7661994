"""The membership record of a run whose clients come and go: who was drawn for each round, and who counted.

    {"event": "drawn", "round": 3, "there": 60, "clients": […]}     before the adapters are handed out
    {"event": "counted", "round": 3, "clients": […]}                as the local steps end
    {"event": "lost", "round": 3, "clients": [NAME]}                its optimizer starts from zero

The last lines of a round hold. A round that is begun again, after a restart, waits for the clients of its
record first: with these the result is the same, bit by bit. Other clients are drawn where one does not come.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from splitft.common.files import append_mark, disk_of
from splitft.errors import JobError

COHORTS = "cohorts.jsonl"
DRAWN, COUNTED, LOST = "drawn", "counted", "lost"
Line = tuple[str, int, list[str]]  # event, round, clients


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a record, less those that a crash has torn; none where there is no file."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    found: list[Line] = []
    for text in lines:
        try:
            line = json.loads(text)
            found.append((str(line["event"]), int(line["round"]), [str(name) for name in line["clients"]]))
        except (ValueError, LookupError, TypeError):
            continue
    return found


def read_counted(path: Path) -> dict[int, list[str]]:
    """Return the clients that counted in each round of a record.

    Raises JobError where there is none, and where a client lost its state: no other run has its bits then.
    """
    lines = read_lines(path)
    counted = {round_: clients for event, round_, clients in lines if event == COUNTED}
    if not counted:
        raise JobError(f"replay_cohorts {path}: it is no cohorts.jsonl of a run, or no round of it has ended")
    for event, round_, clients in lines:
        if event == LOST:
            raise JobError(
                f"replay_cohorts {path}: {', '.join(clients)} lost its state in round {round_}, and its "
                "optimizer started from zero: a run in one process would not"
            )
    return counted


@dataclass(eq=False)
class CohortLog:
    """The record of one run. folder: of the run; None: it is kept in memory alone."""

    folder: Path | None = None
    _drawn: dict[int, list[str]] = field(default_factory=dict, init=False)
    _counted: dict[int, list[str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for event, round_, clients in read_lines(self.folder / COHORTS) if self.folder else ():
            self._note(event, round_, clients)

    def due(self, round_: int) -> list[str]:
        """Return the clients of a round that is begun again: those that counted, else those drawn."""
        return [*(self._counted.get(round_) or self._drawn.get(round_) or ())]

    def draw(self, round_: int, clients: Sequence[str], there: int) -> None:
        """Write down who was drawn, of so many that are there. Raises OutputError."""
        if self.due(round_) != list(clients):
            self._write(DRAWN, round_, clients, there=there)

    def count(self, round_: int, clients: Sequence[str]) -> None:
        """Write down whose local steps count. Raises OutputError."""
        if self._counted.get(round_) != list(clients):
            self._write(COUNTED, round_, clients)

    def lose(self, round_: int, client: str) -> None:
        """Write down that a client's state is lost. Raises OutputError."""
        self._write(LOST, round_, [client])

    def _write(self, event: str, round_: int, clients: Sequence[str], **more: int) -> None:
        if self.folder is not None:
            line = {"event": event, "round": round_, **more, "clients": list(clients)}
            path = self.folder / COHORTS
            new = not path.exists()
            append_mark(path, json.dumps(line))
            if new:  # a loss of power must not undo the file itself
                disk_of(path).flush_folder(self.folder)
        self._note(event, round_, list(clients))

    def _note(self, event: str, round_: int, clients: list[str]) -> None:
        if event == DRAWN:
            self._drawn[round_] = clients
            self._counted.pop(round_, None)
        elif event == COUNTED:
            self._counted[round_] = clients
