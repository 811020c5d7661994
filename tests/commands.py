"""The command line in this process, and what it leaves in a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from splitft.launch import cli


def splitft(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["splitft", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def hashes(folder: Path) -> dict[str, str]:
    """Every file's digest, and every folder by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }
