"""The live file: what it says while a run is under way, at its end, and where it cannot be written."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from splitft.cuts.observe import Decision
from splitft.errors import DivergedError
from splitft.job import Job
from splitft.running.live import LIVE, LiveFile, Notices
from splitft.running.progress import RunProgress
from splitft.wire.ledger import Ledger
from watched_runs import decision, record

CUTS = {"north": 3, "south": 4}
AFTER = {"north": 3, "south": 5}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., LiveFile]:
    def made(decisions: list[Decision], notices: Notices) -> LiveFile:
        job: Any = Job(model_name_or_path="m", data_files="d", rounds=2, local_steps=2, clients=2)
        progress = RunProgress(job, 2, Ledger(), Console(file=io.StringIO()))
        return LiveFile(tmp_path, job, list(CUTS), 8, progress, notices, lambda: decisions)

    return made


def wait(folder: Path, found: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Return what the file says once that is so."""
    deadline = time.monotonic() + 60
    while not found(said := json.loads((folder / LIVE).read_text())):
        assert time.monotonic() < deadline, said
        time.sleep(0.02)
    return dict(said)


def test_it_says_who_is_waited_for_and_what_was_decided(
    make: Callable[..., LiveFile], tmp_path: Path
) -> None:
    decisions, notices = [decision(1, CUTS, AFTER)], Notices()
    tmp_path.chmod(0o750)
    with make(decisions, notices) as live:
        live.begin()
        assert json.loads((tmp_path / LIVE).read_text())["phase"] == "starting"
        live.on_round_begin(1, AFTER, list(CUTS))
        for step in range(2):
            live.on_loss(1, step, "north", 3.0 - step)
        live.on_loss(1, 0, "south", float("nan"))
        notices("south is slow")
        said = wait(tmp_path, lambda now: "south" in now["clients"] and now["notices"])
        assert (said["phase"], said["round"], said["waiting_for"]) == ("training", 1, ["south"])
        assert (said["clients"]["north"]["step"], said["clients"]["north"]["loss"]) == (1, 2.0)
        assert said["clients"]["north"]["steps_per_second"] > 0 and said["clients"]["south"]["loss"] is None
        assert said["decision"]["cuts"] == AFTER and (
            said["decision"]["moved"],
            said["decision"]["stayed"],
        ) == (1, 1)
        assert said["notices"][0][1] == "south is slow"
        live.on_evaluation(1)
        live.on_round(record(1, AFTER, 40.0))
        live.on_round_begin(2, AFTER, ["south"])
        said = wait(tmp_path, lambda now: now["round"] == 2)
        assert said["decision"] is None, "of another round"
        assert said["clients"]["north"]["tokens_per_second"] > 0, "known after a round"
    assert json.loads((tmp_path / LIVE).read_text())["phase"] == "done"
    assert (tmp_path / LIVE).stat().st_mode & 0o777 == 0o640, "as its folder"


def test_it_says_how_a_run_stopped(make: Callable[..., LiveFile], tmp_path: Path) -> None:
    for error, phase, reason in (
        (KeyboardInterrupt(), "stopped", "interrupted"),
        (DivergedError.of("a loss"), "diverged", "training has diverged: a loss"),
        (ValueError("oh"), "stopped", "ValueError: oh"),
    ):
        with pytest.raises(type(error)), make([], Notices()) as live:
            live.begin()
            raise error
        said = json.loads((tmp_path / LIVE).read_text())
        assert said["phase"] == phase and said["reason"].startswith(reason)


def test_a_run_goes_on_where_it_cannot_be_written(make: Callable[..., LiveFile], tmp_path: Path) -> None:
    (tmp_path / LIVE).mkdir()
    with make([], Notices()) as live:
        live.begin()
        live.on_loss(1, 0, "north", 3.0)
    assert (tmp_path / LIVE).is_dir()
