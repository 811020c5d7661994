"""The sums that a client's updates have entered, on its disk.

Two sums over different clients that hold the same update differ by the updates of clients that are in one
alone. So an update enters sums over one set of clients only, however often a round is repeated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from splitft.common.files import write_atomically
from splitft.errors import OutputError

SUMS = "sums.json"
KEEP = 1000  # updates, the last ones


@dataclass(frozen=True)
class SumRecord:
    """The record of one client. folder: the client's."""

    folder: Path

    def find(self, update: str) -> tuple[str, ...]:
        """Return the clients with which an update was summed; none: it was not.

        update: its SHA-256, in hexadecimal. Raises OutputError where the file is damaged.
        """
        return tuple(self._read().get(update, ()))

    def keep(self, update: str, clients: tuple[str, ...]) -> None:
        """Write down the clients with which an update is summed. Raises OutputError."""
        kept = self._read() | {update: sorted(clients)}
        last = dict(list(kept.items())[-KEEP:])
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self.folder / SUMS, json.dumps(last, indent=1) + "\n", flushed=True)

    def _read(self) -> dict[str, list[str]]:
        path = self.folder / SUMS
        if not path.exists():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {str(update): [str(name) for name in names] for update, names in found.items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise OutputError(
                f"{path} cannot be read ({error}): put a copy of it back, or remove it; without it an update "
                "may enter two sums, whose difference tells what others sent"
            ) from None
