"""One folder, one run at a time: the second is refused at once and touches nothing of the first."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
from bad_jobs import Settings, assert_one_message, write_job

from commands import hashes
from forks import run_command, start_command
from splitft import Job, run
from splitft.common import lock
from splitft.common.lock import FILE, lock_folder
from splitft.errors import OutputError


@pytest.fixture
def held(settings: Settings, tmp_path: Path) -> Iterator[tuple[Path, ForkServerProcess]]:
    """The job file of a run that stands still in its first round, and its process."""
    job = write_job(settings | {"labels": "server", "privacy": "server_reads"}, tmp_path)
    process = start_command(["run", job], tmp_path / "log", points="server.aggregate:1:delay:120")
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "checkpoints" / "round-000000").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    yield job, process
    process.kill()
    process.join()


@pytest.mark.parametrize("command", [
    ["run"], ["run", "--resume"], ["server", "--listen", "127.0.0.1:0"],
    ["server", "--resume", "--listen", "127.0.0.1:0"],
], ids=" ".join)  # fmt: skip
def test_a_second_run_is_refused_and_the_first_is_untouched(
    command: list[str], held: tuple[Path, ForkServerProcess], tmp_path: Path
) -> None:
    job, process = held
    before = hashes(tmp_path / "out")
    done = run_command(command[0], job, "learning_rate=0.5", *command[1:])
    assert done.returncode == OutputError.exit_code
    who = f"process {process.pid} on {socket.gethostname()}"
    assert_one_message(done.stderr, ("output_dir", f"is in use by {who}", "choose another output_dir"))
    assert len(done.stderr.strip().splitlines()) == 1
    assert hashes(tmp_path / "out") == before


def test_the_lock_of_a_killed_run_is_free(
    held: tuple[Path, ForkServerProcess], settings: Settings, tmp_path: Path
) -> None:
    _, process = held
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert (tmp_path / "out" / FILE).exists()  # a killed process removes nothing
    assert len(run(Job(**settings), resume=True).history) == 2
    assert not (tmp_path / "out" / FILE).exists()


def test_a_folder_is_locked_once_and_free_after_each_end(tmp_path: Path) -> None:
    first = lock_folder(tmp_path / "made", "output_dir")
    with pytest.raises(OutputError, match="is in use by process"):
        lock_folder(tmp_path / "made", "output_dir")
    first.release()
    assert list((tmp_path / "made").iterdir()) == []
    with pytest.raises(ValueError, match="inside"), lock_folder(tmp_path / "made", "output_dir"):
        raise ValueError("inside")
    with lock_folder(tmp_path / "made", "output_dir"):
        pass


def test_the_lock_of_a_file_that_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def flock(descriptor: int, how: int) -> None:
        if not taken:  # the last holder ends between this one's open and its lock
            (tmp_path / FILE).unlink()
        taken.append(descriptor)
        return fcntl.flock(descriptor, how)

    monkeypatch.setattr(
        lock, "fcntl", SimpleNamespace(flock=flock, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB)
    )
    with lock_folder(tmp_path, "output_dir"):
        assert len(taken) == 2
        with pytest.raises(OutputError, match="is in use"):
            lock_folder(tmp_path, "output_dir")
