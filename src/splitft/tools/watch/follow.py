"""Files that another process writes, read as they grow: each byte once, nothing where nothing changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 64 << 20  # of one line


class LinesFile:
    """A file of JSON lines, read as it grows.

    replaced: counts how often the file was found shorter, or another: its lines begin anew.
    damaged: lines that are no JSON objects, which are passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replaced = self.damaged = 0
        self._seen: tuple[int, int, int] | None = None  # inode, size and time of the last look
        self._offset = 0  # after the last whole line

    def read(self) -> list[dict[str, Any]]:
        """Return the lines that are new; a line without its end is being written, and comes later."""
        try:
            found = self.path.stat()
        except OSError:
            if self._seen is not None:
                self._begin_anew()
                self._seen = None
            return []
        seen = found.st_ino, found.st_size, found.st_mtime_ns
        if seen == self._seen:
            return []
        if self._seen is not None and (found.st_ino != self._seen[0] or found.st_size < self._offset):
            self._begin_anew()
        self._seen = seen
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return []
        end = text.rfind(b"\n") + 1 or len(text) * (len(text) > MOST_BYTES)
        self._offset += end
        return [line for line in map(self._parsed, text[:end].splitlines()) if line is not None]

    def _begin_anew(self) -> None:
        self.replaced += 1
        self.damaged = self._offset = 0

    def _parsed(self, line: bytes) -> dict[str, Any] | None:
        found = parsed(line)
        self.damaged += found is None
        return found


class WholeFile:
    """A JSON file that is written whole, read when it is another one. value: what it holds; {}: nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.value: dict[str, Any] = {}
        self.time = 0.0  # when it was written, in seconds since 1970; 0: it is not there
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> bool:
        """Read the file where it has changed; return whether it has. A damaged one is as before."""
        try:
            found = self.path.stat()
            seen = found.st_ino, found.st_size, found.st_mtime_ns
            if seen == self._seen:
                return False
            value = parsed(self.path.read_bytes())
        except OSError:
            changed = self._seen is not None
            self._seen, self.value, self.time = None, {}, 0.0
            return changed
        self._seen, self.time = seen, found.st_mtime
        if value is None:
            return False
        self.value = value
        return True


def parsed(text: bytes) -> dict[str, Any] | None:
    """Return the object that a JSON text is; None for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
