"""A client of the last version with other messages, against today's server: refused in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from commands import start_process
from forks import start_command
from ports import free_port
from reference import make_setting, write_rows
from repository import ROOT
from splitft import Job
from splitft.engines.network.control import PROTOCOL, SCHEMA, VERSION
from splitft.job import dump_job

pytestmark = pytest.mark.slow
CONTROL = "src/splitft/engines/network/control.py"


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True).stdout


def protocol_of(commit: str) -> int:
    found = re.search(rb"^PROTOCOL = (\d+)", git("show", f"{commit}:{CONTROL}"), re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the last commit whose messages had another version."""
    if not (ROOT / ".git").exists():
        pytest.skip("no history here")
    commits = git("log", "--format=%H", "--", CONTROL).decode().split()
    commit = next(one for one in commits if protocol_of(one) != PROTOCOL)
    folder = tmp_path_factory.mktemp("former")
    packed = git("archive", commit, "src")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    return folder / "src"


def wait_for(log: Path, text: str, seconds: float = 90.0) -> str:
    deadline = time.monotonic() + seconds
    while not (log.exists() and text in log.read_text(errors="replace")):
        assert time.monotonic() < deadline, (
            log.read_text(errors="replace") if log.exists() else "nothing said"
        )
        time.sleep(0.1)
    return log.read_text(errors="replace")


def test_a_client_of_the_former_version_is_refused_and_the_run_goes_on(former: Path, tmp_path: Path) -> None:
    names = ["anna", "bert"]
    files = {name: str(write_rows(tmp_path / f"{name}.txt", 24, n)) for n, name in enumerate(names)}
    settings: dict[str, Any] = make_setting(tmp_path, "llama") | {
        "data_files": files, "partition": {"method": "files"}, "labels": "client", "tail_blocks": 1,
        "cuts": 2, "rounds": 1, "local_steps": 1, "warmup_steps": 0, "network": {"clients": names},
    }  # fmt: skip
    dump_job(Job(**settings, output_dir=str(tmp_path / "run")), tmp_path / "job.yaml")
    address, log = f"127.0.0.1:{free_port()}", tmp_path / "server.log"
    server = start_command(["server", tmp_path / "job.yaml", "--listen", address], log)
    try:
        wait_for(log, "listening at port")
        words = ["client", "--server", address, "--name", "anna", "--data", files["anna"], "--folder"]
        # The former client: one line at each side, which names both versions.
        command = [sys.executable, "-m", "splitft.launch", *words, str(tmp_path / "old")]
        environment = os.environ | {"PYTHONPATH": str(former), "NO_COLOR": "1", "COLUMNS": "300"}
        old_log = tmp_path / "old.log"
        with old_log.open("wb") as file:
            old = start_process(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        assert old.wait(90) == 6, old_log.read_text()
        told, refused = old_log.read_text(), wait_for(log, "refused anna")
        for text in (told, refused):
            line = next(line for line in text.splitlines() if "it runs splitft" in line)
            assert f"(messages {PROTOCOL - 1} " in line
            assert f"this server {VERSION} (messages {PROTOCOL} {SCHEMA}): both need the same version" in line
        assert "Traceback" not in told
        # Its owner installs the new one, and the run comes to its end with both.
        clients = [
            start_command(
                [
                    "client", "--server", address, "--name", name, "--data", files[name],
                    "--folder", tmp_path / name, "--accept", "first",
                ],
                tmp_path / f"{name}.log",
            )
            for name in names
        ]  # fmt: skip
        for party in (server, *clients):
            party.join(90)
        assert [party.exitcode for party in (server, *clients)] == [0, 0, 0], log.read_text()
        assert "expelled" not in log.read_text()
    finally:
        server.kill()
        server.join()
