"""Plugins: a user's modules, named on the command line or installed, register pieces by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forks import run_command
from fresh import run_code
from reference import make_setting
from splitft import Job
from splitft.common.plugins import load_plugins
from splitft.errors import JobError
from splitft.job import dump_job

PIECES = """
from splitft import register_cut_policy

@register_cut_policy("deepest")
def deepest(observation, config):
    return {client.name: 9 for client in observation.clients}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pieces.py").write_text(PIECES)
    (tmp_path / "broken.py").write_text("1 / 0")
    return tmp_path


@pytest.mark.parametrize("name", ["pieces", "pieces.py"])
def test_a_plugin_of_the_command_line_is_found_in_the_current_folder(name: str, folder: Path) -> None:
    dump_job(Job(**make_setting(folder, "llama", num_hidden_layers=3)), folder / "job.yaml")
    done = run_command("plan", "job.yaml", "cut_policy.method=deepest", "--plugin", name, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "deepest" in done.stdout


def test_without_it_the_name_is_unknown(folder: Path) -> None:
    done = run_command("plan", "quickstart", "cut_policy.method=deepest", cwd=folder)
    assert done.returncode == 2
    assert "cut_policy.method: no cut policy is called deepest; " in done.stderr
    assert "--plugin MODULE" in done.stderr and "register_cut_policy" in done.stderr


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("broken", "ZeroDivisionError: division by zero"),
        ("nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("nowhere.py", "FileNotFoundError"),
    ],
)
def test_a_plugin_that_does_not_load_is_named(
    name: str, problem: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(JobError, match=f"--plugin {name}: {problem}"):
        load_plugins([name])


def installed(folder: Path, code: str) -> None:
    """Lay a package with an entry point into a folder, as pip would."""
    (folder / "their_pieces.py").write_text(code)
    info = folder / "their_pieces-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-pieces\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[splitft.plugins]\ntheirs = their_pieces\n")


def test_an_installed_plugin_is_imported_where_a_name_is_not_built_in(tmp_path: Path) -> None:
    installed(tmp_path, PIECES)
    done = run_code(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from splitft.cuts.registry import CUT_POLICIES\n"
        "CUT_POLICIES.find('fixed'); print('their_pieces' in sys.modules)\n"
        "CUT_POLICIES.find('deepest'); print('their_pieces' in sys.modules)\n",
        environment=dict(os.environ),
    )
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_an_installed_plugin_that_does_not_load_is_named(tmp_path: Path) -> None:
    installed(tmp_path, "1 / 0")
    done = run_code(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from splitft.cuts.registry import CUT_POLICIES\n"
        "CUT_POLICIES.find('deepest')\n",
        environment=dict(os.environ),
    )
    told = "the installed plugin theirs (their_pieces) does not load: ZeroDivisionError: division by zero"
    assert told in done.stderr


def test_two_plugins_with_one_name_are_told_and_files_may_be_called_alike(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "pieces.py").write_text(PIECES)
    both = ["--plugin", "pieces.py", "--plugin", "other/pieces.py"]
    done = run_command("plan", "quickstart", *both, cwd=folder)
    assert done.returncode == 2
    assert "--plugin other/pieces.py: " in done.stderr
    assert "the plugin pieces.py has registered a cut policy deepest: rename one of the two" in done.stderr
    (folder / "other" / "pieces.py").write_text(PIECES.replace("deepest", "deepest_too"))
    done = run_command("plan", "nothing.yaml", "cut_policy.method=deepest_too", *both, cwd=folder)
    assert "there is no file nothing.yaml" in done.stderr  # both were loaded
