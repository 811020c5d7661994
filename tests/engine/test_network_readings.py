"""A client's own readings over a network: what they say, and that nothing of them is sent or changed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from commands import splitft as command
from network_sites import run_sites
from network_threads import QUIET, Settings, three_sites
from run_files import adapter_of
from splitft import Job, run
from splitft.running import join as joining
from splitft.tools.audit.meter import ReadableMeter
from splitft.tools.audit.site_meter import NOTHING, SiteMeter

NAMES = ("anna", "bert")
LINE = re.compile(
    r"own reading after round (\d): cut (\d), int8: a linear inverter names (\d+)% of (\d+) tokens"
)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("readings")
    own = {"labels": "client", "codec": "int8", "cuts": [1, 2], "rounds": 3, "adapter_name_or_path": None}
    return three_sites(folder, NAMES, **own)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's history, without what the clock says."""
    found = []
    for line in (folder / "run" / "history.jsonl").read_text().splitlines():
        own = json.loads(line)
        found.append({key: value for key, value in own.items() if "seconds" not in key})
    return found


def test_a_client_reads_its_own_rows_and_nothing_else_changes(setting: Settings, tmp_path: Path) -> None:
    """The first reading is that of the same job in one process, of the same adapter."""
    meters = {name: SiteMeter(every=2) for name in NAMES}
    said = {}
    for folder, readable in (("with", True), ("without", False)):
        (tmp_path / folder).mkdir()
        options = {"server": {}, "client": lambda name, on=readable: {"meter": meters[name] if on else None}}
        said[folder] = run_sites(setting, tmp_path / folder, **options)
    assert adapter_of(tmp_path / "with" / "run") == adapter_of(tmp_path / "without" / "run")
    assert lines_of(tmp_path / "with") == lines_of(tmp_path / "without"), "bytes and figures are the same"
    found = sorted(LINE.findall(said["with"]))
    assert [(round_, cut) for round_, cut, _, _ in found] == [("2", "1"), ("2", "2"), ("3", "1"), ("3", "2")]
    assert all(int(share) >= 20 and 100 < int(count) < 256 for _, _, share, count in found)
    assert "own reading" not in said["without"]


def test_the_first_reading_is_that_of_one_process(setting: Settings, tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    setting = setting | {"rounds": 1}
    said = run_sites(setting, tmp_path / "apart", server={}, client=lambda name: {"meter": SiteMeter()})
    job = {key: value for key, value in setting.items() if key != "network"}
    run(Job(**job, output_dir=str(tmp_path / "one")), console=QUIET, meter=ReadableMeter())
    before = json.loads((tmp_path / "one" / "history.jsonl").read_text().splitlines()[0])["readable"]
    wanted = sorted(("1", str(cut), f"{100 * own['tokens']:.0f}", f"{own['n']:.0f}")
                    for cut, own in zip((1, 2), before.values(), strict=True))  # fmt: skip
    assert sorted(LINE.findall(said)) == wanted


def test_a_job_without_activations_is_told_once(setting: Settings, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    own = setting | {"method": "fed_lora", "codec": "none", "cuts": 1}
    said = run_sites(own, tmp_path / "whole", server={}, client=lambda name: {"meter": SiteMeter()})
    assert said.count(NOTHING) == len(NAMES)


def test_the_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`splitft client --readable N` makes the meter that `join` is given."""
    given: list[Any] = []
    monkeypatch.setattr(joining, "join", lambda *args, meter=None, **own: given.append(meter))
    words = ("client", "--server", "127.0.0.1:1", "--name", "anna", "--data", tmp_path / "rows.txt")
    assert command(*words, monkeypatch=monkeypatch) == 0
    assert command(*words, "--readable", "3", monkeypatch=monkeypatch) == 0
    assert given[0] is None and isinstance(given[1], SiteMeter) and given[1].every == 3
