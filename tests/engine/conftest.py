"""A good job that tests spoil, and the pieces of docs/extending.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from bad_jobs import Settings

from repository import ROOT
from splitft.common.plugins import load_plugins
from tiny import save_tiny_model

sys.path.append(str(ROOT / "tests" / "docs"))
from documents import files_of


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good model of 4 blocks and 128 positions, and good rows."""
    folder = tmp_path_factory.mktemp("good")
    save_tiny_model(folder / "model", "gpt2")
    rows = [f"the people of the united states made law number {i}" for i in range(40)]
    (folder / "rows.txt").write_text("\n\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture
def settings(shared: Path, tmp_path: Path) -> Settings:
    """A good job; each case makes one thing wrong."""
    return {
        "model_name_or_path": str(shared / "model"),
        "data_files": str(shared / "rows.txt"),
        "max_length": 32,
        "clients": 2,
        "rounds": 1,
        "local_steps": 1,
        "cuts": 2,
        "lora_r": 4,
        "use_cpu": True,
        "output_dir": str(tmp_path / "out"),
    }


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, imported in this process, too."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, code in files_of("docs/extending.md").items():
        (folder / name).write_text(code)
        load_plugins([str(folder / name)])
    return folder
