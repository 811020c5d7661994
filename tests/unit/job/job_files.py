"""Job files that tests write, and the problems that are told of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitft.errors import JobError
from splitft.job import load_job

BASE = "model_name_or_path: m\ndataset_name: d\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    """The problem lines of a job that must be refused; its heading is checked here."""
    path = write(folder, text)
    with pytest.raises(JobError) as caught:
        load_job(path, overrides)
    heading, *lines = str(caught.value).split("\n")
    assert heading == f"{path}: {len(lines)} problem{'s' if len(lines) != 1 else ''}"
    assert all(line.startswith("  ") and not line.startswith("   ") for line in lines)
    return [line.strip() for line in lines]


def only_problem(folder: Path, text: str, *overrides: str) -> str:
    lines = problems(folder, text, *overrides)
    assert len(lines) == 1, lines
    return lines[0]
