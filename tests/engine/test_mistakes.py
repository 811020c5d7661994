"""Every mistake of the list gets one clear line and its documented exit code, and loses nothing."""

from __future__ import annotations

import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_jobs import QUIET, Settings, assert_one_message, write_job
from mistakes import GONE
from mistakes_engineer import ENGINEER
from mistakes_operator import OPERATOR, SECRET
from mistakes_researcher import RESEARCHER

from commands import hashes, splitft
from forks import run_command
from repository import ROOT
from splitft import Job, run
from splitft.common.lock import FILE, lock_folder
from splitft.engines.network.control import Welcome
from splitft.engines.network.transport import certs
from splitft.engines.network.transport.admission import Admission, AuditLog
from splitft.engines.network.transport.issuing import issue
from splitft.engines.network.transport.listener import Listener

MISTAKES = {**RESEARCHER, **ENGINEER, **OPERATOR}


@pytest.fixture(scope="module")
def finished(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The good job, run for two rounds."""
    settings = good_job(shared) | {"rounds": 2, "max_eval_samples": 4}
    folder = tmp_path_factory.mktemp("finished") / "run"
    result = run(Job(**settings, output_dir=str(folder)), console=QUIET)
    assert len(result.history) == 3
    return folder


@pytest.fixture(scope="module")
def places(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the texts of the list name outside the test's folder."""
    folder = tmp_path_factory.mktemp("places")
    authority = folder / "certs"
    certs.create_authority(authority)
    certs.add_client(authority, "north")
    certs.add_client(authority, "late", days=-0.02)
    shutil.copytree(authority / "server", authority / "ended")
    issue(authority, "server", authority / "ended" / certs.SERVER, certs.HERE, days=-0.02)
    (folder / "server").mkdir()
    audit = AuditLog(folder / "server", lambda text: None)
    door = Admission(("north",), {"north": SECRET["secret"]}, False, audit)
    listener = Listener("127.0.0.1:0", None, door, Welcome(), 1 << 20)
    with lock_folder(folder / "busy", "output_dir"), socket.create_server(("127.0.0.1", 0)) as taken:
        yield {
            "{busy}": str(folder / "busy"), "{server}": f"127.0.0.1:{listener.port}",
            "{taken}": str(taken.getsockname()[1]), "{certs}": str(authority),
        }  # fmt: skip
    listener.close(0)


def good_job(shared: Path) -> Settings:
    return {
        "model_name_or_path": str(shared / "model"), "data_files": str(shared / "rows.txt"), "max_length": 32,
        "clients": 2, "rounds": 1, "local_steps": 1, "cuts": 2, "lora_r": 4, "use_cpu": True,
        "labels": "server", "privacy": "server_reads",
    }  # fmt: skip


def filled(value: Any, texts: dict[str, str]) -> Any:
    """Put the places into texts, in lists and mappings, too."""
    if isinstance(value, str):
        return re.sub(r"{\w+}", lambda found: texts.get(found[0], found[0]), value)
    if isinstance(value, list):
        return [filled(item, texts) for item in value]
    if isinstance(value, dict):
        return {key: filled(item, texts) for key, item in value.items()}
    return value


def prepare(name: str, shared: Path, finished: Path, places: dict[str, str], folder: Path) -> list[str]:
    """Write the files of a mistake; return its command."""
    mistake = MISTAKES[name]
    texts = {
        "{folder}": str(folder),
        "{job}": str(folder / "job.yaml"),
        "{run}": str(folder / "run"),
    } | places
    job = good_job(shared) | {"output_dir": str(folder / "out")} | filled(mistake.job, texts)
    if "{run}" in f"{mistake.command} {mistake.job}":
        shutil.copytree(finished, folder / "run")
        job.setdefault("max_eval_samples", 4)
    for file, content in mistake.files.items():
        (folder / file).write_bytes(content)
    if mistake.make:
        mistake.make(job, folder)
    write_job({key: value for key, value in job.items() if value is not GONE}, folder)
    return filled(mistake.command.split(), texts)


def assert_nothing_lost(before: dict[str, str], after: dict[str, str]) -> None:
    """What was there is as it was; what is new are empty folders, and the lock of one."""
    assert {path: after.get(path) for path in before} == before
    assert not {path for path, digest in after.items() if digest and path not in before and FILE not in path}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_line_and_its_exit_code(
    name: str,
    shared: Path,
    finished: Path,
    places: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mistake = MISTAKES[name]
    command = prepare(name, shared, finished, places, tmp_path)
    for module in mistake.without:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("COLUMNS", "400")
    before, kept = hashes(tmp_path), hashes(Path(places["{certs}"]).parent)
    capsys.readouterr()
    code = splitft(*command, monkeypatch=monkeypatch)
    error = capsys.readouterr().err
    assert code == mistake.code, error
    assert_one_message(error, mistake.told)
    assert len(error.strip().splitlines()) <= mistake.lines, error
    assert_nothing_lost(before, hashes(tmp_path))
    kept.pop("server/audit.jsonl", None)
    assert_nothing_lost(kept, hashes(Path(places["{certs}"]).parent) | {"server/audit.jsonl": ""})


def test_the_list_is_long_and_every_code_is_documented() -> None:
    assert len(RESEARCHER) >= 60 and len(ENGINEER) >= 40 and len(OPERATOR) >= 25
    assert len(MISTAKES) == len(RESEARCHER) + len(ENGINEER) + len(OPERATOR)
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").split("## Exit codes")[1]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page.split("\n## ")[0], re.MULTILINE)}
    assert {mistake.code for mistake in MISTAKES.values()} == {2, 3, 4, 5, 6} < documented
    assert all(mistake.told for mistake in MISTAKES.values())


@pytest.mark.parametrize("name", ["a file with a parquet's name", "a folder that another program made"])
def test_a_real_process_ends_the_same_way(
    name: str, shared: Path, finished: Path, places: dict[str, str], tmp_path: Path
) -> None:
    command = prepare(name, shared, finished, places, tmp_path)
    before = hashes(tmp_path)
    done = run_command(*command)
    assert done.returncode == MISTAKES[name].code
    assert_one_message(done.stderr, MISTAKES[name].told)
    assert_nothing_lost(before, hashes(tmp_path))
