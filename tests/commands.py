"""Commands in this process and in processes of their own, and what they leave in a folder."""

from __future__ import annotations

import hashlib
import signal
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from splitft.launch import cli


def splitft(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command line in this process; return its exit code."""
    monkeypatch.setattr("sys.argv", ["splitft", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def start_process(command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
    """Start a command, with the options of `Popen`."""
    return subprocess.Popen(list(map(str, command)), preexec_fn=_preparation(), **options)


def run_process(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with the options of `subprocess.run`; its output is text."""
    return subprocess.run(
        list(map(str, command)), preexec_fn=_preparation(), capture_output=True, encoding="utf-8", **options
    )


def _preparation() -> Callable[[], object] | None:
    """Return what has a process heed Ctrl-C where these tests do not: under `nohup make test &` or cron."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return partial(signal.signal, signal.SIGINT, signal.SIG_DFL) if ignored else None


def hashes(folder: Path) -> dict[str, str]:
    """Every file's digest, and every folder by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }
