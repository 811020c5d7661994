"""The lines of a party's log, read back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<level>INFO|WARNING|ERROR) "
    r"(?P<event>[\w.]+) (?P<text>.+)"
)


def read_lines(path: Path, format_: str) -> list[dict[str, Any]]:
    """Return all lines of a log; fails where one has no time, level, event or text."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines
    found = []
    for line in lines:
        if format_ == "json":
            one = json.loads(line)
            line = " ".join(str(one[key]) for key in ("time", "level", "event", "text"))
        else:
            one = {}
        match = LINE.fullmatch(line)
        assert match, line
        found.append({**match.groupdict(), **one})
    return found


def events(lines: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the lines of one event."""
    return [line for line in lines if line["event"] == name]
