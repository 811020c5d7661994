"""Jobs with something wrong, and the one message that is told of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from commands import start_process
from splitft.launch import cli

QUIET = Console(quiet=True)
Settings = dict[str, Any]


def write_job(settings: Settings, folder: Path) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def assert_one_message(error: str, wanted: tuple[str, ...]) -> None:
    assert error.startswith("error: ")
    assert error.count("error:") == 1
    assert "Traceback" not in error
    assert len(error) < 1200
    missing = [part for part in wanted if part not in " ".join(error.split())]
    assert not missing, error


def start_splitft(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    command = [Path(sys.executable).with_name("splitft"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "dumb"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return start_process(command, env=environment, **streams)


def devices(job: Settings, **profile: Any) -> None:
    job.update(devices="mine", device_profiles={"mine": profile})


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> str:
    """Run a command that must be refused with code 2; return what it told."""
    monkeypatch.setattr("sys.argv", ["splitft", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2, error
    return error
