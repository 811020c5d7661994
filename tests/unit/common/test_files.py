"""What is written survives a loss of power, and what one tore does no harm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from splitft.common.files import append_line, append_mark, flush, write_atomically
from splitft.engines.network.ending import OVER, RESUME, STEPS, TOLD, untold


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files and folders that were flushed to the disk, in order."""
    found: list[str] = []
    fsync = os.fsync

    def heard(descriptor: int) -> None:
        found.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", heard)
    return found


@pytest.mark.parametrize("before", ["", "one\n", "one\nhal"])
def test_a_mark_is_a_line_of_its_own_and_flushed(before: str, tmp_path: Path, flushed: list[str]) -> None:
    file = tmp_path / "log"
    file.write_text(before)
    if before.endswith("\n"):
        append_line(file, "two")
    append_mark(file, "three")
    assert file.read_text().splitlines()[-1] == "three" and flushed == ["log"]
    assert file.read_text().startswith(before)


def test_a_mark_begins_a_file(tmp_path: Path) -> None:
    append_mark(tmp_path / "log", "one")
    assert (tmp_path / "log").read_text() == "one\n"


def test_results_are_flushed_before_and_after_they_get_their_name(tmp_path: Path, flushed: list[str]) -> None:
    write_atomically(tmp_path / "summary.json", "{}", flushed=True)
    assert flushed == [f".summary.json.{os.getpid()}", tmp_path.name]
    flushed.clear()
    (tmp_path / "adapters/client").mkdir(parents=True)
    (tmp_path / "adapters/client/config.json").write_text("{}")
    flush(tmp_path / "adapters")
    assert flushed == ["client", "config.json", "adapters", tmp_path.name]


def test_lines_that_a_loss_of_power_tore_are_passed_over(tmp_path: Path) -> None:
    lines = [
        '{"event": "aggregate", "rows": {"anna": 3}',  # ends as a whole line does
        '{"event": "backward", "cl{"event": "resume"}',
        "\x00\x00",
        f'{{"event": "{RESUME}", "rounds": 1}}',
        f'{{"event": "{TOLD}", "client": "anna"}}',
        f'{{"event": "{OVER}',
    ]
    (tmp_path / STEPS).write_text("\n".join(lines))
    assert untold(tmp_path, ["anna", "bert"]) == ["bert"]
